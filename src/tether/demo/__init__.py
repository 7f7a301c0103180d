"""``python -m tether.demo``: what the methods do to a small network, in three minutes at most.

Two experiments on scikit-learn's handwritten digits, on the CPU and without network: fine-tuning
on labels a third of which are wrong, and fine-tuning on ten correctly labelled samples a class.
Prints a table, writes one HTML page. :mod:`tether.demo.run` is also the shortest complete example
of a training loop with tether in it.
"""
