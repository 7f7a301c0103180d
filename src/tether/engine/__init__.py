"""What makes methods run in anybody's loop."""
