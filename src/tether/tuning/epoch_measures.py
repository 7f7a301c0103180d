"""What is measured beside every evaluation: distances, features, and what became of the labels.

None of it makes a forward of its own. Distances are a pass over the weights; features are what the
head is given while the validation split is scored; predictions of training samples are those of the
steps that trained on them, which the record of samples keeps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tether.encode.profile import (
    DISTANCE,
    HEAD_NORM,
    bound_weights,
    group_distances,
    tensor_distances,
)
from tether.engine.layers import weight_refs
from tether.engine.taps import pool_features
from tether.errors import TetherError
from tether.measure import feature_entropy, feature_norms, memorization_fractions

if TYPE_CHECKING:
    from tether.data.table import Table
    from tether.engine.handle import Handle
    from tether.labels.record import SampleRecord

#: Validation samples whose features are measured; entropy costs their number squared.
SAMPLES = 128


class EpochMeasures:
    """Numbers for a row of ``metrics.jsonl``; random numbers, modes and buffers stay as they are.

    Args:
        handle: what is attached; the model holds w0 still, of which the weights below the head are
            kept where no method has a copy already.
        head: dotted name of the model's head.
        table: the training samples, in the order of their rows.
        record: keeps the predictions of the training steps; None: labels are left out.
        compiled: the model is compiled, and a hook in its graph would change it: features are
            left out.
    """

    def __init__(
        self, handle: Handle, head: str, table: Table, record: SampleRecord | None, *,
        compiled: bool = False,
    ) -> None:  # fmt: skip
        self.table, self.record = table, record
        self.refs = bound_weights(weight_refs(handle.inner, head))
        self.reference: Mapping[str, Tensor] = handle.reference
        if not handle.reference.taken:
            below = (ref for ref in self.refs if not ref.is_head)
            self.reference = {ref.name: ref.param.detach().clone() for ref in below}
        modules = dict(handle.inner.named_modules())
        self.head: nn.Module | None = None if compiled else modules.get(head)
        self.fresh: list[Tensor] = []
        self.features: list[Tensor] = []

    def numbers(self) -> dict[str, float]:
        """All that can be told now; what is not a finite number is left out."""
        found = {**self._distances(), **self._features(), **self._labels()}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    # -- distances -------------------------------------------------------------------------------

    def _distances(self) -> dict[str, float]:
        each = tensor_distances(self.refs, self.reference)
        groups, head = group_distances(self.refs, each)
        below = [each[ref.name] for ref in self.refs if not ref.is_head]
        found = {"distance": math.hypot(*below)} if below else {}
        found |= {f"{DISTANCE}{group}": value for group, value in groups.items()}
        return found if head is None else {**found, HEAD_NORM: head}

    # -- features --------------------------------------------------------------------------------

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep what the head is given, of the first samples of an evaluation."""
        self.fresh, self.features = [], []
        if self.head is None:
            yield
            return
        hook = self.head.register_forward_pre_hook(self._hear, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._seen() >= SAMPLES:
            return
        given = args[0] if args else next(iter(kwargs.values()))
        last = not isinstance(module, nn.Conv2d)
        try:
            self.fresh.append(pool_features(given.detach(), None, None, last=last))
        except TetherError:  # one row a token: which of them are the sample's is unknown
            self.head = None

    def gather(self, accelerator: Any) -> None:
        """After each batch of an evaluation: the rows of all processes, in their order."""
        if self.fresh:
            rows = torch.cat(self.fresh)
            self.fresh = []
            self.features.append(accelerator.gather_for_metrics(rows))

    def _seen(self) -> int:
        return sum(map(len, self.features))

    def _features(self) -> dict[str, float]:
        if self._seen() < 2:
            return {}
        rows = torch.cat(self.features)[:SAMPLES].float().cpu()
        self.features = []
        if not torch.isfinite(rows).all():
            return {}
        entropy = float(feature_entropy(rows))
        return {"feature_norm": feature_norms(rows)["mean"], "feature_entropy": entropy}

    # -- labels ----------------------------------------------------------------------------------

    def _labels(self) -> dict[str, float]:
        """Predictions of this epoch's steps against the labels given, and the true ones."""
        from tether.labels.record import COLUMNS

        if self.record is None:
            return {}
        columns = self.record.now.cpu().numpy().view(COLUMNS).reshape(-1)
        seen = np.flatnonzero(~np.isnan(columns["loss"]))
        if not len(seen):
            return {}
        given = self.record.given.cpu().numpy()[seen]
        if given.ndim == 2:  # several labels a sample: all of them must be right
            return {"label_agreement": float((columns["margin"][seen] > 0).mean())}
        predicted = columns["predicted"][seen].astype(np.int64)
        found = {"label_agreement": float((predicted == given).mean())}
        if self.table.true_labels is not None:
            true = np.asarray(self.table.true_labels)[seen]
            shares = memorization_fractions(predicted, given.astype(np.int64), true)
            names = {"memorised": "memorised", "resisted": "resisted", "fitted": "clean_fitted"}
            found |= {name: shares[key] for key, name in names.items()}
        return found
