"""A robot and its reference, drawn: posed, rendered with what there is to say, and kept as animations."""
