"""Products of a loss's Hessian with vectors, by double backward or by differences of gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.attention import SDPBackend, sdpa_kernel

from tether.errors import ConfigError, TetherError
from tether.losses import TaskLoss
from tether.measure.batches import Inputs
from tether.measure.evaluation import Evaluation, count_rows, forward
from tether.measure.weights import Perturbation, root_mean_squares

METHODS = ("auto", "autograd", "finite_difference")
Vectors = Sequence[Tensor]


@contextmanager
def differentiable(model: nn.Module, weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Gradients for some weights only, also frozen ones; attention in its plain form.

    The fused forms of attention have no second derivative.

    Args:
        model: the inner model, inside :func:`tether.measure.weights.undisturbed`.
        weights: those that are differentiated.
    """
    wanted = {id(parameter) for parameter in weights.values()}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(id(parameter) in wanted)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


class Curvature:
    """Hessian-vector products of the mean loss of one batch after the other.

    Args:
        model: the inner model, inside :func:`differentiable`.
        noise: the weights, inside its context.
        task: the loss.
        method: ``"autograd"``, ``"finite_difference"``, or ``"auto"``: the second where the first
            is not possible, or a layer has a backward of its own, which autograd may take for a
            constant without a word.

    Raises:
        ConfigError: an unknown method.
    """

    def __init__(self, model: nn.Module, noise: Perturbation, task: TaskLoss, method: str) -> None:
        if method not in METHODS:
            raise ConfigError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        self.model, self.noise, self.task, self.method = model, noise, task, method
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self._inputs: Inputs | None = None
        self._count = 1
        self._grads: list[Tensor] = []
        #: Layers with a backward of their own, which may not be differentiable and not say so.
        self._opaque = False
        self._checked = method == "auto"
        self._root = math.sqrt(
            sum(r**2 * w.numel() for r, w in zip(self._sizes(), self.weights, strict=True))
            / max(sum(w.numel() for w in self.weights), 1)
        )

    def _sizes(self) -> list[float]:
        return root_mean_squares(self.weights)

    def at(self, inputs: Inputs, count: int) -> None:
        """Go to a batch.

        Args:
            inputs: the batch.
            count: its samples that count.
        """
        self._inputs, self._count = inputs, count
        if self.method != "finite_difference":
            self._grads = self._gradients(create_graph=True)
        if self.method == "auto" and self._opaque:
            self.method, self._grads = "finite_difference", []

    def leave(self) -> None:
        """Let go of the batch's graph."""
        self._inputs, self._grads = None, []

    def product(self, vectors: Vectors, places: Sequence[int] | None = None) -> list[Tensor]:
        """``H v`` for v that is zero outside some tensors, at these tensors.

        Args:
            vectors: one for each of the weights.
            places: where v is not zero, and where the product is wanted; None: everywhere.

        Raises:
            TetherError: a layer has no second derivative.
        """
        chosen = list(range(len(self.weights))) if places is None else list(places)
        if self.method == "finite_difference":
            return self._differences(vectors, chosen)
        try:
            products = self._double_backward(vectors, chosen)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self.method == "autograd":
                raise self._no_second(str(error).splitlines()[0]) from error
            self.method, self._grads = "finite_difference", []
            return self._differences(vectors, chosen)
        self.method = "autograd"
        return products

    def _gradients(
        self, *, create_graph: bool = False, places: Sequence[int] | None = None
    ) -> list[Tensor]:
        assert self._inputs is not None
        weights = self.weights if places is None else [self.weights[i] for i in places]
        losses = self.task.per_sample(forward(self.model, self._inputs), self._inputs.targets)
        loss = losses.sum() / self._count
        if not loss.requires_grad:
            return [torch.zeros_like(w) for w in weights]
        if self.method == "auto" and create_graph:
            self._opaque = any(isinstance(node, BackwardCFunction) for node in _nodes([loss]))
        found = torch.autograd.grad(loss, weights, create_graph=create_graph, allow_unused=True)
        grads = [
            torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)
        ]
        if create_graph and not self._checked:
            self._checked = True
            if any(type(node).__name__ == "Error" for node in _nodes(grads)):
                raise self._no_second("one of them can be differentiated once only")
        return grads

    @staticmethod
    def _no_second(why: str) -> TetherError:
        return TetherError(
            f'a layer of the model has no second derivative ({why}): use method="finite_difference"'
        )

    def _double_backward(self, vectors: Vectors, places: list[int]) -> list[Tensor]:
        rows = [place for place in places if self._grads[place].requires_grad]
        weights = [self.weights[place] for place in places]
        if not rows:
            return [torch.zeros_like(weight) for weight in weights]
        found = torch.autograd.grad(
            [self._grads[place] for place in rows], weights,
            grad_outputs=[vectors[place] for place in rows], retain_graph=True, allow_unused=True,
        )  # fmt: skip
        return [
            torch.zeros_like(w) if h is None else h for w, h in zip(weights, found, strict=True)
        ]

    def _differences(self, vectors: Vectors, places: list[int]) -> list[Tensor]:
        size = sum(float(vectors[place].double().square().sum()) for place in places)
        numel = sum(vectors[place].numel() for place in places)
        if not size:
            return [torch.zeros_like(vectors[place]) for place in places]
        # the cube root balances what rounding and the third derivative do to the difference
        precision = max(torch.finfo(vectors[place].dtype).eps for place in places)
        step = precision ** (1 / 3) * max(self._root, 1e-3) / math.sqrt(size / numel)
        sides = []
        for sign in (1.0, -1.0):
            self.noise.shift(vectors, sign * step, places)
            sides.append(self._gradients(places=places))
        self.noise.restore(places)
        return [(up - down) / (2 * step) for up, down in zip(*sides, strict=True)]


def _nodes(tensors: Vectors) -> Iterator[Any]:
    """Every node of the graphs that tensors come from."""
    queue: list[Any] = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set(queue)
    while queue:
        node = queue.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                queue.append(following)


def micro_batches(evaluation: Evaluation, size: int | None) -> list[tuple[Inputs, int]]:
    """Parts of the batches with the number of their samples that count; empty ones left out.

    Args:
        evaluation: holds the batches.
        size: most samples of a part, from 1; None leaves the batches as they are.

    Raises:
        ConfigError: a size below 1.
    """
    if size is not None and size < 1:
        raise ConfigError(f"micro_batch must be at least 1, got {size}")
    parts = []
    for inputs in evaluation.batches:
        step = size or max(inputs.rows, 1)
        for start in range(0, inputs.rows, step):
            part = inputs.part(start, start + step)
            count = count_rows(evaluation.task, part.targets)
            if count:
                parts.append((part, count))
    return parts
