"""What the methods cost. ``python -m benchmarks.overhead``."""
