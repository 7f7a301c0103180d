"""Methods that change layers."""
