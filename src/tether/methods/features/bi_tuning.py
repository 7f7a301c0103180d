"""Bi-Tuning (Zhong et al., 2020): a classifier and a projection, both against moving keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.features.contrast import class_contrast, projected_contrast, with_one
from tether.methods.features.heads import head_rows
from tether.methods.features.queue import enqueue_, filled, gathered
from tether.methods.targets.rows import class_indices
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context


@register(
    "bi_tuning",
    kind="features",
    paper="arXiv:2011.06182",
    needs=("features", "class_labels", "views"),
    cost="forward",
    losses=("cross_entropy",),
    neutral={"weight": 0.0},
    batch_statistics=True,  # parts of a batch meet other keys
    exempt={"shards": "a moving average of the whole network; refused under fully_shard"},
    search_space={"weight": ("log", 0.1, 10.0), "temperature": ("log", 0.03, 0.3)},
)
class BiTuning(Method):
    """Contrasts samples with recent ones of their own and of other classes, at two places.

    Recent samples, the keys, are features of a moving average of the network on a second view. A
    projection of the features is drawn to the keys of its class (what is alike among them); and
    the features themselves are drawn to the classifier's row of their class, away from where keys
    of other classes lie (what tells classes apart). Helps with few labelled samples, also where
    pretraining had no labels. Hurts, or costs too much, with very many classes: the queues hold
    ``queue_size`` keys of each. Rows that another method mixes do not go with it.

    With ``z = unit(P f)``, ``h = unit([f; 1])``, ``w_c = unit([W_c; b_c])`` without a graph, keys
    by a prime, and of a sample of class c the positives S: its own key and those of c in the
    queue::

        R = mean_i KL(uniform over S || softmax over all keys k of z_i . z'_k / T)
          + mean_i KL(uniform over S || softmax of (h_i . w_c, h'_k . w_c for k in the queue) / T)

    Only ``h_i`` carries a gradient in the second part. Keys join the queue after the loss.

    Args:
        weight: lambda, 0 and more, default 1.0 as in the paper's code; schedulable.
        momentum: weight of the old average, in [0, 1), default 0.999 as in the paper.
        temperature: T, above 0, default 0.07 as in the paper.
        projection_dim: width of P's output, default 128 as in the paper.
        queue_size: keys kept of each class, default 40 as in the paper's code.

    Shape:
        Features ``[N, d]``, targets ``[N]`` or ``[N, K]`` (the largest counts); one further view.

    State:
        The moving average of the network; P, its optimiser and moving average; ``keys_h`` ``[K, Q,
        d + 1]``, ``keys_z`` ``[K, Q, p]`` and ``seen`` ``[K]``, equal on all ranks.

    Cost:
        A forward of the moving average, products of the batch with K Q keys, and memory of the
        network and of ``K Q (d + p)`` numbers. In several processes keys are gathered: batches
        are of one size on all ranks.

    Raises:
        ValueError: an option out of its range.
        TetherError: no further view of the samples, a head without a weight, sharded parameters.

    References:
        Jincheng Zhong, Ximei Wang, Zhi Kou, Jianmin Wang, Mingsheng Long. Bi-tuning of Pre-trained
        Representations. 2020, arXiv:2011.06182.

    Example:
        >>> BiTuning(queue_size=8, temperature=0.1)
        BiTuning(temperature=0.1, queue_size=8)
    """

    keys_h: Tensor
    keys_z: Tensor
    seen: Tensor

    def __init__(
        self,
        weight: ScheduleLike = 1.0,
        momentum: float = 0.999,
        temperature: float = 0.07,
        projection_dim: int = 128,
        queue_size: int = 40,
    ) -> None:
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum!r}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature!r}")
        if projection_dim < 1 or queue_size < 1:
            raise ValueError("projection_dim and queue_size must be 1 or more")
        self.weight, self.momentum, self.temperature = weight, momentum, temperature
        self.projection_dim, self.queue_size = projection_dim, queue_size

    def setup(self, ctx: Context) -> None:
        """Make the projection, the moving averages, and empty queues."""
        if any(hasattr(p, "full_tensor") for p in ctx.model.parameters()):
            raise TetherError(
                f"method {ctx.name!r} keeps a moving average of the network, which every process "
                "holds whole: it does not go with fully_shard; use DDP"
            )
        head_rows(ctx)  # refuses a head without a weight
        width, count, decay = ctx.num_features, ctx.num_classes, self.momentum
        projection = nn.Linear(width, self.projection_dim)
        self.projection = ctx.add_module("projection", projection)
        still = copy.deepcopy(projection).requires_grad_(False)
        self.key_projection = ctx.add_module(
            "key_projection", still, ema_of=self.projection, ema_decay=decay
        )
        network = copy.deepcopy(ctx.model).requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                # not read in training, where batches have statistics of their own: not saved
                module._non_persistent_buffers_set.update(("running_mean", "running_var"))
        self.key = ctx.add_module("key", network, ema_of=ctx.model, ema_decay=decay)
        size = (count, self.queue_size)
        self.add_state("keys_h", torch.zeros(*size, width + 1, device=ctx.device))
        self.add_state("keys_z", torch.zeros(*size, self.projection_dim, device=ctx.device))
        self.add_state("seen", torch.zeros(count, dtype=torch.int64, device=ctx.device))

    def penalty(self, batch: Batch) -> Tensor:
        """Both contrasts, of the first view with keys of the second."""
        ctx, features = self.ctx, batch.need_features()
        classes = class_indices(batch.targets).clamp(min=0)
        (view, *_) = batch.extras["views"]
        given: dict[str, Any] = dict(view) if isinstance(view, Mapping) else {}
        inputs = () if given else (view,)
        key = ctx.forward(*inputs, grad=False, weights=self.key, **given).features
        assert key is not None
        with torch.no_grad():
            key_z = normalize(self.key_projection(key), dim=1)
            key_h = normalize(with_one(key), dim=1)
            rows = normalize(head_rows(ctx), dim=1)
        # a copy of the queue: it is written before the backward, which needs what it was
        there = filled(self.seen, self.queue_size)
        first = projected_contrast(
            normalize(self.projection(features), dim=1), key_z, self.keys_z.clone(), there,
            classes, temperature=self.temperature,
        )  # fmt: skip
        second = class_contrast(
            normalize(with_one(features), dim=1), rows, self.keys_h, there, classes,
            temperature=self.temperature,
        )  # fmt: skip
        mask = torch.ones_like(classes, dtype=torch.bool) if batch.mask is None else batch.mask

        def write() -> None:
            z, h, labels, keep = gathered(ctx, [key_z, key_h, classes, mask])
            buffers = [self.keys_z, self.keys_h]
            enqueue_(buffers, self.seen, [z, h], classes=labels, keep=keep)

        ctx.defer(write)
        return batch.masked_mean(first + second)

    def measure(self) -> dict[str, Any]:
        """How full the queues are; mean cosine of keys within their class."""
        there = filled(self.seen, self.queue_size)
        keys = self.keys_h * there[..., None]
        counts = there.sum(1)
        sums = keys.sum(1).square().sum(1) - counts
        pairs = (counts * (counts - 1)).clamp(min=1)
        cosine = (sums / pairs)[counts > 1]
        mean = float(cosine.mean()) if len(cosine) else 0.0
        return {"filled": float(there.float().mean()), "cosine_within": mean}
