"""Reading files that strangers made without running code in them, and writing ours all or not at all."""
