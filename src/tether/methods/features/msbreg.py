"""MSBReg: views of an image near their centroid, all images apart, and a random kick."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.features.calls import call_of, without_task
from tether.methods.features.rows import check_choice, feature_rows
from tether.methods.features.sphere import (
    brownian_diffusion_loss,
    moment_rank,
    multi_view_centroid_loss,
    second_moment,
    spectral_dispersion_loss,
)
from tether.methods.records import change_record
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context

SOURCES = ("train", "unlabelled")


@register(
    "msbreg",
    kind="features",
    paper="arXiv:2207.03552",
    needs=("features", "inputs", "views"),
    cost="heavy",
    neutral={"weight": 0.0},
    stochastic=True,
    batch_statistics=True,
    exempt={"shards": "a sharded model cannot be copied: it is refused, and momentum=0 works"},
    search_space={
        "weight": ("log", 0.01, 10.0),
        "spectral_weight": ("log", 0.01, 1.0),
        "brownian_weight": ("log", 0.01, 1.0),
    },
)
class MSBReg(Method):
    """Learn from views without labels: pull an image's views together and spread all images.

    Self-supervised pretraining of a backbone (with ``alone``, where the task loss is left out and
    no label is read), or an auxiliary loss that keeps features from collapsing. Helps with many
    unlabelled inputs and views that change what does not matter. Hurts beside a task loss when
    ``spectral_weight`` is large, since classes want few directions; with batches smaller than the
    projection the spread is noisy.

    With unit embeddings z of V views, those t of a slow copy, and random unit vectors u::

        penalty = M + spectral_weight S + brownian_weight B
        M = mean_{n,v} 2 - 2 <z_nv, c_n>,   c_n = mean_v t_nv, brought to length 1
        S = D |C|_F^2 - 1,                  C = mean_{n,v} z_nv z_nv^T
        B = mean_{n,v} <z_nv, u_n>,         u_n drawn anew in every step

    S has the minimum of the published singular value loss, but is not its published form.

    Args:
        weight: >= 0, schedulable (default 1).
        spectral_weight: of S, 0 or more (default 0.1).
        brownian_weight: of B, 0 or more (default and third-party code 0.1).
        momentum: of the slow copy that gives t, in [0, 1); default 0.99. 0: no copy, t is z
            itself without its gradient, which saves its forwards.
        num_views: V, at least 2 (default 2).
        projection: width D of the embeddings, made by two linear layers that are gone at the end
            (default 64); 0: the features themselves.
        source: ``"train"`` (default): the batch and its views; ``"unlabelled"``: views of a batch
            of inputs without labels (``tether tune --unlabelled``).
        alone: leave out the task loss (default False).

    Shape:
        features ``[N, d]``. Samples without a label take part.

    State:
        the projection with its optimiser; the slow copies of model and projection.

    Cost:
        a forward and backward for each further view (for all of them on unlabelled inputs), and a
        forward of the copy for every view. S sees the batch of its own process.

    Raises:
        ValueError: an option out of range.
        TetherError: no further views or no unlabelled inputs; a slow copy under ``fully_shard``.

    References:
        Suhong Moon, Domas Buracas, Seunghyun Park, Jinkyu Kim, John Canny, "An Embedding-Dynamic
        Approach to Self-supervised Learning", WACV 2023, arXiv:2207.03552.

    Example:
        >>> MSBReg(spectral_weight=0.5, alone=True)
        MSBReg(spectral_weight=0.5, alone=True)
    """

    def __init__(
        self,
        weight: ScheduleLike = 1.0,
        spectral_weight: float = 0.1,
        brownian_weight: float = 0.1,
        momentum: float = 0.99,
        num_views: int = 2,
        projection: int = 64,
        source: str = "train",
        alone: bool = False,
    ) -> None:
        check_choice("source", source, SOURCES)
        given = {"spectral_weight": spectral_weight, "brownian_weight": brownian_weight}
        for name, value in {**given, "projection": projection}.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value!r}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum!r}")
        if num_views < 2:
            raise ValueError(f"num_views must be at least 2, got {num_views!r}")
        self.weight, self.spectral_weight = weight, spectral_weight
        self.brownian_weight, self.momentum = brownian_weight, momentum
        self.num_views, self.projection = num_views, projection
        self.source, self.alone = source, alone
        needs = type(self).info.needs
        if source == "unlabelled":
            needs = ("features", "unlabelled", "unlabelled_views")
        change_record(self, needs=needs, views=num_views)

    def setup(self, ctx: Context) -> None:
        """Make the projection, and slow copies of it and of the model."""
        width = ctx.num_features
        project: nn.Module = nn.Identity()
        if self.projection:
            hidden = max(width, self.projection)
            project = nn.Sequential(
                nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, self.projection)
            )
        self._project = ctx.add_module("projection", project)
        self._moment: Tensor | None = None
        if self.momentum > 0:
            if any(hasattr(ref.param, "_local_tensor") for ref in ctx.weights()):
                raise TetherError(f"{ctx.name!r}: no slow copy under fully_shard; take momentum=0")
            self._target = self._slow("target", ctx.model)
            self._target_projection = self._slow("target_projection", project)

    def _slow(self, name: str, source: nn.Module) -> nn.Module:
        twin = copy.deepcopy(source).requires_grad_(False)
        return self.ctx.add_module(name, twin, None, ema_of=source, ema_decay=self.momentum)

    def weight_samples(self, batch: Batch) -> Tensor | None:
        """Nothing of the task loss, where the views stand alone."""
        return without_task(batch) if self.alone else None

    def penalty(self, batch: Batch) -> Tensor:
        """The three forces on the embeddings of this step's views."""
        calls = self._calls(batch)
        first = [batch.need_features()] if self.source == "train" else []
        rows = first + [self._features(*call) for call in calls[len(first) :]]
        online = torch.stack([self._project(feature_rows(each)) for each in rows], 1)
        target = online
        if self.momentum > 0:
            with torch.no_grad():
                seen = [self._features(*call, slow=True) for call in calls]
                target = torch.stack(
                    [self._target_projection(feature_rows(each)) for each in seen], 1
                )
        moment = second_moment(online.detach())
        self.ctx.defer(lambda: setattr(self, "_moment", moment))
        spread = spectral_dispersion_loss(online)
        kick = brownian_diffusion_loss(online, generator=self.ctx.generator)
        return (
            multi_view_centroid_loss(online, target)
            + self.spectral_weight * spread
            + self.brownian_weight * kick
        )

    def _calls(self, batch: Batch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Arguments of the model for each view."""
        others = "views" if self.source == "train" else "unlabelled_views"
        found = [call_of(batch, self.source)]
        for view in batch.extras[others][: self.num_views - 1]:
            found.append(((), dict(view.items())) if hasattr(view, "items") else ((view,), {}))
        return found

    def _features(self, args: Any, kwargs: Any, slow: bool = False) -> Tensor:
        if slow:
            seen = self.ctx.forward(*args, grad=False, mode="eval", weights=self._target, **kwargs)
        else:
            seen = self.ctx.forward(*args, **kwargs)
        assert seen.features is not None
        return seen.features

    def measure(self) -> dict[str, Any]:
        """Effective rank of the last batch's embeddings: 1 when collapsed, D when dispersed."""
        return {} if self._moment is None else {"rank": float(moment_rank(self._moment))}
