"""Nested dropout: the head sees the first k features, with k drawn anew in every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.layers.truncation import (
    best_truncation,
    nested_dropout,
    nested_hits,
    truncation_probabilities,
)

if TYPE_CHECKING:
    from tether.engine.context import Context


class TruncatedLinear(nn.Linear):
    """A linear layer on the first ``drawn`` inputs in training, on the first ``kept`` else.

    Both are tensors that change in place, so that a compiled graph stays; ``kept`` goes with the
    weights into the state dict. Other networks that run through this module share them.
    """

    drawn: Tensor
    kept: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Mask, then the linear layer."""
        rows = nested_dropout(input, self.drawn if self.training else self.kept)
        return F.linear(rows, self.weight, self.bias)

    def get_extra_state(self) -> Tensor:
        """The number of inputs that evaluation keeps."""
        return self.kept

    def set_extra_state(self, state: Tensor) -> None:
        """Read what ``get_extra_state`` gave."""
        self.kept.copy_(state)


@register(
    "nested_dropout",
    kind="layers",
    paper="arXiv:2206.13140",
    needs=("class_labels", "features", "valid_data"),
    cost="light",
    losses=("cross_entropy",),
    neutral={"sigma": 1.0, "mu": 1e6},
    example={"sigma": 4.0},
    stochastic=True,
    search_space={"sigma": ("log", 5.0, 300.0)},
)
class NestedDropout(Method):
    """Train the head on the first k features, k at random, which orders them by importance.

    What the first features must say they say for all samples, so that less room is left to
    memorise single ones. Helps with wrong labels and long training: it is robustness to
    over-training, not a better optimum (stopped early on clean validation data, plain training
    comes as far). Hurts where ``sigma`` is too tight for the classes. Pretrained features are not
    ordered: the first epochs are a large disturbance, for which a large ``sigma`` and a warm-up
    help. Validation labels must be clean, or the number of features is chosen too large.

    With features h of width D and the head (W, b)::

        P(k) ~ exp(-((k - mu) / sigma)^2),   k = 1, ..., D         one k for all rows of a step
        z = W (h_1, ..., h_k, 0, ..., 0) + b
        k* = argmax_k accuracy(k) - 1e-5 (k - 1)                   on validation data, each epoch

    Nothing is rescaled. Evaluation uses k*; ``finish`` writes it into the head, whose columns
    beyond it become zero: the model that is saved is ordinary. All ranks draw the same k, and
    micro-batches of one update share it. A second network (:class:`~tether.CoTeaching`) shares k
    and k*.

    Args:
        sigma: width of the distribution, > 0 (default 100; paper 10 for 10 classes and 100 for
            100 classes or Clothing1M, at D = 512: about D/50 and D/5).
        mu: its place (default and paper 0; far above D, every feature is always kept).

    Shape:
        features ``[N, D]``, class indices or probabilities.

    State:
        ``drawn`` and ``kept``, the present k and k*; ``curve`` ``[D]``, accuracy by k in
        the last epoch.

    Cost:
        One mask a step; a pass over the validation data an epoch.

    Raises:
        ValueError: ``sigma`` is not above 0.
        TetherError: the head is no plain linear layer.

    References:
        Yingyi Chen, Shell Xu Hu, Xi Shen, Chunrong Ai, Johan A. K. Suykens, "Compressing Features
        for Learning with Noisy Labels", IEEE TNNLS 2022, arXiv:2206.13140. Oren Rippel, Michael
        Gelbart, Ryan Adams, "Learning Ordered Representations with Nested Dropout", ICML 2014,
        arXiv:1402.0915.

    Example:
        >>> NestedDropout(sigma=10)
        NestedDropout(sigma=10)
    """

    drawn: Tensor
    kept: Tensor
    curve: Tensor

    def __init__(self, sigma: float = 100.0, mu: float = 0.0) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma must be > 0, got {sigma!r}")
        self.sigma = sigma
        self.mu = mu

    def prepare(self, model: nn.Module) -> None:
        """Let the head truncate its input; its name and its weights stay."""
        head = model.get_submodule(self.head_name) if self.head_name else None
        if type(head) is not nn.Linear:
            what = "there is none" if head is None else f"it is a {type(head).__name__}"
            raise TetherError(
                f"method {self.info.name!r} needs a plain nn.Linear as the head, and {what}: name "
                'one with tether.prepare(..., head="...")'
            )
        for name in ("drawn", "kept"):
            setattr(head, name, torch.tensor(head.in_features, device=head.weight.device))
        head.__class__ = TruncatedLinear

    def setup(self, ctx: Context) -> None:
        """Take the layer's numbers as state, and draw the first k."""
        head = ctx.head_module
        if not isinstance(head, TruncatedLinear):
            raise TetherError(
                f"method {ctx.name!r} has prepared the layer {self.head_name!r}, which is not the "
                'head: give tether.prepare(..., head="...") the same as attach'
            )
        for name in ("drawn", "kept"):
            setattr(head, name, getattr(head, name).to(ctx.device))
            self.add_state(name, getattr(head, name))
        self.add_state("curve", torch.zeros(ctx.num_features, device=ctx.device))
        chances = truncation_probabilities(ctx.num_features, self.sigma, self.mu)
        self._whole = bool(chances[-1] == 1.0)
        self._chances = chances.to(ctx.device, torch.float32)
        self.after_step()

    def after_step(self) -> None:
        """The k of the next step, the same on every rank."""
        k = torch.multinomial(self._chances, 1, generator=self.ctx.generator).squeeze(0) + 1
        k = self.ctx.all_reduce(k if self.ctx.rank == 0 else torch.zeros_like(k))
        made = self.ctx.step_mask
        self.drawn.copy_(k if made is None else torch.where(made > 0, k, self.drawn))

    def epoch_end(self, epoch: int) -> None:
        """Choose k* on the validation data."""
        if self._whole:
            return
        head = self.ctx.head_module
        assert isinstance(head, TruncatedLinear)
        weight, bias = (_gathered(tensor) for tensor in (head.weight, head.bias))
        hits = torch.zeros_like(self.curve)
        rows = torch.zeros_like(self.curve[0])
        for batch in self.ctx.evaluate(self.ctx.valid_data):
            targets = batch.targets.argmax(1) if batch.targets.ndim > 1 else batch.targets
            counts = (targets >= 0) if batch.mask is None else (targets >= 0) & batch.mask
            targets = torch.where(counts, targets, -1)
            features = batch.need_features()
            found = None if bias is None else bias.to(features.dtype)
            hits += nested_hits(features, weight.to(features.dtype), targets, found)
            rows += counts.sum()
        self.ctx.all_reduce(hits)
        self.ctx.all_reduce(rows)
        self.curve.copy_(hits / rows.clamp(min=1.0))
        self.kept.copy_(best_truncation(self.curve))

    def measure(self) -> dict[str, Any]:
        """k*, and the validation accuracy with it."""
        kept = int(self.kept)
        return {"kept": kept, "accuracy": float(self.curve[kept - 1])}

    def finish(self, model: nn.Module) -> None:
        """Zero the head's columns beyond k*, and give the head its class back."""
        head = self.ctx.head_module
        kept = int(self.kept)
        with torch.no_grad():
            self.ctx.local([head.weight])[0][:, kept:].zero_()  # type: ignore[list-item]
        if type(head) is TruncatedLinear:  # what fully_shard wraps stays as it is
            del head.drawn, head.kept
            head.__class__ = nn.Linear  # type: ignore[assignment]


def _gathered(tensor: Any) -> Any:
    """Whole where it is sharded; every rank calls this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
