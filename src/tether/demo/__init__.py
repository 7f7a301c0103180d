"""``python -m tether.demo``: what the methods do to a small network, in a few minutes.

Two experiments on scikit-learn's handwritten digits, on the CPU and without network: fine-tuning
on labels a third of which are wrong, and fine-tuning on ten correctly labelled samples a class.
Every run is a ``tether.tune``. Prints a table, writes one HTML page.
"""
