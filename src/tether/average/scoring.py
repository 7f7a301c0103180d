"""Averaged weights put into the model and scored; running statistics of batch norms made anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tether.average.outcome import Scores
from tether.engine.loader import to_device
from tether.errors import ConfigError
from tether.models.predict import run_model
from tether.tuning.metrics import score
from tether.tuning.opened import OpenedRun, fill


class Kitchen:
    """The model of some runs and their held-out data.

    Args:
        run: gives both.
        splits: what is scored.
        batch_norm: ``"estimate"`` or ``"average"``.
        batch_size: samples of a forward.
        device: where to compute.

    Raises:
        ConfigError: the run cannot be put together again.
    """

    def __init__(
        self, run: OpenedRun, splits: Sequence[str], batch_norm: str, batch_size: int, device: str
    ) -> None:
        self.made = run.assembly
        self.loaded = self.made.loaded
        self.metric = run.result.metric
        self.batch_size, self.device, self.path = batch_size, device, run.path
        tables = self.made.source.tables
        self.splits = [s for s in splits if s in tables and tables[s].labels is not None]
        norms = [m for m in self.loaded.model.modules() if _has_statistics(m)]
        self.batch_norm = batch_norm if norms else ""

    def put(self, weights: Mapping[str, Tensor], *, mixed: bool = True) -> None:
        """Let the model hold some weights.

        Args:
            weights: by name.
            mixed: whether they are an average, whose running statistics are nobody's.
        """
        fill(self.loaded.model, weights, f"the weights to average with those of {self.path}")
        if mixed and self.batch_norm == "estimate":
            loader = DataLoader(self.made.plain, self.batch_size, collate_fn=self.made.collate)
            estimate_batch_norm(self.loaded.model, loader)
        self.loaded.model.eval()

    def taste(self, weights: Mapping[str, Tensor], *, mixed: bool = True) -> Scores:
        """Scores of some weights on every split; see :meth:`put`."""
        self.put(weights, mixed=mixed)
        source = self.made.source
        found: Scores = {}
        for split in self.splits:
            table = source.tables[split]
            assert table.labels is not None
            logits = run_model(self.loaded, table, batch_size=self.batch_size, device=self.device)
            if source.task == "regression":
                logits = logits.reshape(table.labels.shape)
            found[split] = score(source.task, logits, table.labels)
            if self.metric not in found[split]:
                raise ConfigError(
                    f"the run was judged by {self.metric}, which is the training loss: averages "
                    f"are judged by one of {', '.join(found[split])}"
                )
        return found

    def told(self, scores: Scores) -> str:
        """The metric on each split, in words."""
        return ", ".join(f"{split} {of[self.metric]:.4f}" for split, of in scores.items())


@torch.no_grad()
def estimate_batch_norm(model: nn.Module, batches: DataLoader[object]) -> None:
    """Give batch norms the statistics of their inputs under the weights that the model holds now.

    Means over all batches; everything else of the model stays in evaluation mode. Layers that are
    frozen keep theirs only if they track none.

    Args:
        model: changed in place.
        batches: dicts of its inputs, labels left aside.
    """
    norms: list[Any] = [module for module in model.modules() if _has_statistics(module)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    device = next(model.parameters()).device
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # every batch counts alike
            norm.train()
        for batch in batches:
            inputs = {k: v for k, v in to_device(batch, device).items() if k != "labels"}
            if len(next(iter(inputs.values()))) > 1:
                model(**inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None
