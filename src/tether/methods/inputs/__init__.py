"""Methods that act on the batch before the forward."""
