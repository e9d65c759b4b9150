"""What an engine folder holds, and files that are kept: read, checked, never half written."""
