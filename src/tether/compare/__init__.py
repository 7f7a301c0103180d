"""Compare methods fairly: equal tuning, paired seeds, intervals, costs."""
