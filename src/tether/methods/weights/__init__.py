"""Methods that act on weights."""
