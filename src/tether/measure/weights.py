"""The weights of a model under measurement: which of them, noise on them, and all put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType

import torch
from torch import Tensor, nn

from tether.engine.layers import depth_groups
from tether.engine.reference import canonical, is_sharded, unwrap
from tether.engine.seeds import mix_seed
from tether.engine.state import kept_random_state
from tether.engine.taps import find_head
from tether.errors import ConfigError, TetherError
from tether.words import listed, nearest

Layers = Sequence[str] | str | None
_PRECISE = (torch.float32, torch.float64)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; afterwards everything about it is as it was, bit by bit.

    Put back, also after an exception: train flags of every module, ``requires_grad`` and ``.grad``
    of every parameter, buffers, and the random numbers of torch, NumPy and Python. Weights are put
    back by :class:`Perturbation`, which alone changes them. Autocast is off inside, since its
    copies of the weights would not follow a change; compiled parts run as they are written.

    Args:
        model: wrappers of DDP and ``torch.compile`` are looked through.

    Yields:
        the inner model.

    Raises:
        TetherError: the parameters are sharded.

    Example:
        >>> net = nn.Dropout()
        >>> with undisturbed(net) as inner:
        ...     print(inner.training)
        False
        >>> net.training
        True
    """
    inner = unwrap(model)
    parameters = list(inner.parameters())
    if any(is_sharded(p) for p in parameters):
        raise TetherError(
            "the parameters are sharded: measure a whole copy of the model on one process"
        )
    device = device_of(inner)
    flags = {module: module.training for module in inner.modules()}
    grads = [(p, p.requires_grad, p.grad) for p in parameters]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in inner.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        with ExitStack() as stack:
            stack.enter_context(kept_random_state(device))
            stack.enter_context(torch.autocast(device.type, enabled=False))
            stack.enter_context(torch.inference_mode(False))
            if _has_compiled_parts(inner):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            inner.eval()
            yield inner
    finally:
        for module, training in flags.items():
            module.training = training
        for parameter, wanted, grad in grads:
            parameter.requires_grad_(wanted)
            parameter.grad = grad
        for module, name, buffer, kept in buffers:
            module._buffers[name] = buffer
            if buffer is not None and kept is not None:
                buffer.data.copy_(kept)


def _has_compiled_parts(model: nn.Module) -> bool:
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is.

    Args:
        model: any module; one without parameters is on the CPU.
    """
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def named_weights(model: nn.Module, *, precise: bool = True) -> dict[str, nn.Parameter]:
    """Floating parameters by canonical name, tied ones once.

    Args:
        model: the inner model.
        precise: whether to refuse half precision.

    Raises:
        TetherError: one of them holds NaN or infinite numbers, or is in half precision.
    """
    named = {canonical(n): p for n, p in model.named_parameters() if p.is_floating_point()}
    half = [name for name, p in named.items() if p.dtype not in _PRECISE]
    if half and precise:
        raise TetherError(
            f"{listed(half, 2)} are {named[half[0]].dtype}, too coarse for small changes of the "
            "weights: measure a copy in float32 (model.float())"
        )
    if named:
        device = device_of(model)
        sound = torch.stack([torch.isfinite(p.detach()).all().to(device) for p in named.values()])
        bad = [name for name, ok in zip(named, sound.tolist(), strict=True) if not ok]
        if bad:
            raise TetherError(
                f"the weights {listed(bad, 3)} hold NaN or infinite numbers: this model has "
                "diverged, measure an earlier checkpoint"
            )
    return named


def chosen_weights(model: nn.Module, layers: Layers = None) -> dict[str, nn.Parameter]:
    """The weight tensors to be measured, by canonical name, in the order of the model.

    Args:
        model: the inner model.
        layers: None takes all tensors of two dimensions or more (embeddings and every convolution
            included, biases and normalisation layers not); ``"all"`` takes vectors, too; a list of
            names takes those parameters, and of those modules all tensors of two dimensions or
            more.

    Raises:
        ConfigError: a name that the model lacks, or nothing is left.
        TetherError: as :func:`named_weights`.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        >>> list(chosen_weights(net)), list(chosen_weights(net, ["2", "0.bias"]))
        (['0.weight', '2.weight'], ['0.bias', '2.weight'])
    """
    named = named_weights(model)
    matrices = {name: p for name, p in named.items() if p.ndim >= 2}
    if layers is None or layers == "all":
        found = matrices if layers is None else named
        if not found:
            raise ConfigError("the model has no weight tensors to measure")
        return found
    asked = [layers] if isinstance(layers, str) else list(layers)
    taken: set[str] = set()
    for name in asked:
        hits = {name} & set(named) | {n for n in matrices if n.startswith(f"{name}.")}
        if not hits:
            modules = {canonical(n) for n, _ in model.named_modules() if n}
            near = nearest(name, [*named, *modules], most=2)
            raise ConfigError(f"layers names {name!r}, but no weights are called so{near}")
        taken |= hits
    if not taken:
        raise ConfigError("layers is empty: name at least one, or leave it out")
    return {name: p for name, p in named.items() if name in taken}


def reference_weights(
    weights: Mapping[str, Tensor], reference: Mapping[str, Tensor], from_zero: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The tensors of the reference that belong to some weights, on their device and in their type.

    Args:
        weights: by canonical name.
        reference: by name; wrappers in the names are looked through.
        from_zero: names, or prefixes of modules, whose reference is zero.

    Raises:
        ConfigError: the reference lacks tensors (they are named), one has another shape or is not
            finite, or a ``from_zero`` that fits no weight.
    """
    given = {canonical(name): tensor for name, tensor in reference.items()}
    zero = {n for n in weights for z in from_zero if n == z or n.startswith(f"{z}.")}
    unused = [z for z in from_zero if not any(n == z or n.startswith(f"{z}.") for n in weights)]
    if unused:
        raise ConfigError(
            f"from_zero names {unused[0]!r}, but no weight is called so"
            f"{nearest(unused[0], weights)}"
        )
    missing = [name for name in weights if name not in given and name not in zero]
    if missing:
        raise ConfigError(
            f"the reference lacks {listed(missing)} ({len(missing)} of {len(weights)} tensors): "
            "give the state the model began with, or name in from_zero what began anew"
        )
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name in zero:
            found[name] = torch.zeros_like(weight.detach())
            continue
        if given[name].shape != weight.shape:
            raise ConfigError(
                f"{name!r} has shape {tuple(weight.shape)}, in the reference "
                f"{tuple(given[name].shape)}: they are of different models"
            )
        found[name] = given[name].detach().to(weight.device, weight.dtype)
        if not bool(torch.isfinite(found[name]).all()):
            raise ConfigError(f"{name!r} of the reference holds NaN or infinite numbers")
    return found


def depth_parts(model: nn.Module, names: Sequence[str], head: str | None) -> dict[str, list[int]]:
    """Depth group, such as stem, blocks and head, to the places of its tensors.

    Args:
        model: the inner model.
        names: canonical names of tensors.
        head: dotted name of the head; None: found by itself.
    """
    every = [canonical(name) for name, _ in model.named_parameters()]
    groups = depth_groups(model, every, find_head(model, head, None)[0])
    parts: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        parts.setdefault(groups[name], []).append(place)
    return parts


class Perturbation:
    """A context in which weights may be changed; afterwards they are what they were, bit by bit.

    One copy of the weights is kept, and one draw of noise. Random numbers of a tensor follow from
    seed, key and the tensor's name alone, so that tensors of the same name and shape in another
    model get the same ones. They are drawn in float32 on the weights' device. Writing past the
    version counters leaves a pending backward alone.

    Args:
        weights: by canonical name.
        seed: of the random numbers.
    """

    def __init__(self, weights: Mapping[str, Tensor], seed: int) -> None:
        self.names = list(weights)
        self.tensors = [weight.data for weight in weights.values()]
        self.seed = int(seed)
        self._marks = [mix_seed(name) for name in self.names]
        self.kept: list[Tensor] = []
        self.noise: list[Tensor] = []

    def __enter__(self) -> Perturbation:
        self.kept = [tensor.clone() for tensor in self.tensors]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.restore()
        self.kept, self.noise = [], []

    def restore(self, places: Sequence[int] | None = None) -> None:
        """Put the weights back, all or those at some places.

        Args:
            places: which; None: all.
        """
        if self.tensors:
            torch._foreach_copy_(self._at(self.tensors, places), self._at(self.kept, places))

    def draw(self, *key: int | str, scales: Sequence[float] | None = None) -> None:
        """Draw standard normal noise for every tensor.

        Args:
            key: what the random numbers follow from, beside the seed and the tensor's name.
            scales: one factor a tensor.
        """
        if not self.noise:
            self.noise = [torch.empty_like(tensor) for tensor in self.tensors]
        drawn_by = mix_seed(self.seed, *key)
        for mark, noise in zip(self._marks, self.noise, strict=True):
            generator = torch.Generator(noise.device)
            generator.manual_seed(mix_seed(drawn_by, mark))
            if noise.dtype is torch.float32 and noise.is_contiguous():
                noise.normal_(generator=generator)
            else:
                drawn = torch.randn(
                    noise.shape, generator=generator, device=noise.device, dtype=torch.float32
                )
                noise.copy_(drawn)
        if scales is not None and self.noise:
            torch._foreach_mul_(self.noise, [float(scale) for scale in scales])

    def apply(self, factor: float, places: Sequence[int] | None = None) -> None:
        """Set weights to their kept values plus ``factor`` times the noise.

        Args:
            factor: common to all.
            places: which tensors; None: all. The others stay as they are.
        """
        self.shift(self.noise, factor, places)

    def apply_each(self, factors: Sequence[float]) -> None:
        """Set weights to their kept values plus the noise, each times its own factor.

        Args:
            factors: one a tensor.
        """
        if self.tensors:
            torch._foreach_copy_(self.tensors, self.noise)
            torch._foreach_mul_(self.tensors, [float(factor) for factor in factors])
            torch._foreach_add_(self.tensors, self.kept)

    def shift(
        self, by: Sequence[Tensor], factor: float, places: Sequence[int] | None = None
    ) -> None:
        """Set weights to their kept values plus ``factor`` times other tensors.

        Args:
            by: one tensor for each of the weights.
            factor: common to all.
            places: which tensors; None: all. The others stay as they are.
        """
        self.restore(places)
        if self.tensors:
            torch._foreach_add_(self._at(self.tensors, places), self._at(by, places), alpha=factor)

    @staticmethod
    def _at(tensors: Sequence[Tensor], places: Sequence[int] | None) -> list[Tensor]:
        return list(tensors) if places is None else [tensors[place] for place in places]


def root_mean_squares(tensors: Sequence[Tensor]) -> list[float]:
    """``|W|_F / sqrt(numel)`` of each tensor, in float64.

    Args:
        tensors: of any shape; an empty one gives 0.
    """
    if not tensors:
        return []
    squares = [t.detach().double().square().sum().cpu() / max(t.numel(), 1) for t in tensors]
    return [float(value) for value in torch.stack(squares).sqrt().tolist()]
