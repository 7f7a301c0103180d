"""Methods that act on targets."""
