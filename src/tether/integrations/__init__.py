"""tether in other people's training loops; each module imports its framework, this one none.

``tether.integrations.hf``: the Trainer of transformers (and its relatives).
``tether.integrations.lightning``: Lightning's Trainer.
``tether.integrations.accelerate``: loops around an ``Accelerator``.
"""
