"""Other frozen encoders as teachers: found by name, fed with a student's inputs, read as tokens."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.errors import TetherError
from tether.methods.features.depth import output_width, reads
from tether.methods.features.tokens import as_tokens

if TYPE_CHECKING:
    from tether.models.spec import ImagePreprocess


class FrozenEncoder:
    """A frozen network that gives tokens for what another model is called with.

    Args:
        model: the network; it is put into evaluation mode and never gets a gradient.
        layer: whose output is read; None: the features before its head (those of ``tell``).
        tell: the part of the model that gives them; None: the model itself.
        image: its preprocessing; None: it takes the inputs as they are.
        student: mean and std of the inputs as they come, where ``image`` is given.

    Raises:
        TetherError: no such layer, or one that does not tell its width.
    """

    def __init__(
        self, model: nn.Module, layer: str | None = None, *, tell: Any = None,
        image: ImagePreprocess | None = None,
        student: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.tell, self.image, self.student = (
            model.eval(),
            tell or model,
            image,
            student,
        )
        self.layer = None if layer is None else _layer(model, layer)
        self.width = self._width()

    def _width(self) -> int:
        if self.image is not None:
            device = next(self.model.parameters()).device
            blank = torch.zeros(1, self.image.channels, *self.image.size, device=device)
            return self._read((blank,), {}).shape[-1]
        found = output_width(self.model if self.layer is None else self.layer)
        if found is None:
            raise TetherError(
                "the teacher does not tell the width of its output: teacher_layer=..."
            )
        return found

    def __call__(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], half: torch.dtype | None = None
    ) -> Tensor:
        """Tokens ``[N, T, d]`` without a graph, for the arguments of the student's call."""
        if self.image is not None:
            args, kwargs = (self._pixels(first_image(args, kwargs)),), {}
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, half, enabled=half is not None):
            return self._read(args, kwargs)

    @torch.no_grad()
    def _read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        seen: list[Any] = []
        hook = None
        if self.layer is not None:
            hook = self.layer.register_forward_hook(lambda module, inputs, out: seen.append(out))
        try:
            if len(args) + len(kwargs) == 1:  # one input: whatever its name is there
                args, kwargs = (*args, *kwargs.values()), {}
            out = self.tell(*args, **kwargs)
        finally:
            if hook is not None:
                hook.remove()
        return as_tokens(seen[-1] if seen else out).detach()

    def _pixels(self, images: Tensor) -> Tensor:
        """The student's images as this encoder takes them."""
        assert self.image is not None and self.student is not None
        mean, std = (_per_channel(each, images) for each in self.student)
        plain = images.float() * std + mean
        if plain.shape[1] != self.image.channels:
            plain = plain.mean(1, keepdim=True).expand(-1, self.image.channels, -1, -1)
        if tuple(plain.shape[-2:]) != self.image.size:
            plain = F.interpolate(
                plain, self.image.size, mode="bicubic", align_corners=False, antialias=True
            )
        mean, std = (_per_channel(each, plain) for each in (self.image.mean, self.image.std))
        return (plain - mean) / std


def _per_channel(values: Sequence[float], images: Tensor) -> Tensor:
    return torch.tensor(values, device=images.device).view(1, -1, 1, 1)


def _layer(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=4, cutoff=0.3)
        raise TetherError(f"no layer {name!r} in the teacher; near: {', '.join(near) or 'none'}")
    found: nn.Module = modules[name]
    return found


def first_image(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """The images among the arguments of a call, ``[N, C, H, W]``.

    Raises:
        TetherError: there are none.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point():
            return value
    raise TetherError("no images [N, C, H, W] among the arguments of the model's call")


def named_encoder(
    name: str, student: nn.Module, layer: str | None, weights: str, args: Mapping[str, Any],
    mean: Sequence[float] | None, std: Sequence[float] | None,
) -> FrozenEncoder:  # fmt: skip
    """An encoder as ``tether tune --model`` names one, for a student.

    Args:
        name: ``timm:NAME``, ``hf:NAME``, ``torchvision:NAME``, a directory, ...
        student: the model that is trained.
        layer: whose output is read; None: the features before the head.
        weights: a file of weights, or empty.
        args: further arguments of its constructor, and of its preprocessing.
        mean: of the student's inputs; None: as its ``pretrained_cfg`` says.
        std: theirs.

    Raises:
        TetherError: no such model, other inputs than the student's, or unknown mean and std.
    """
    from tether.data.table import DataSource
    from tether.errors import ConfigError
    from tether.models import load_model
    from tether.tuning.options import TuneConfig

    told = reads(student)
    kind = {"text": "text", "image": "image", "rows": "vector"}[told.kind]
    source = DataSource("teacher", kind, "single_label", ["0", "1"], {})
    try:
        config = TuneConfig(model=name, weights=weights, model_args=dict(args))
        loaded = load_model(config, source)
    except ConfigError as error:
        raise TetherError(f"teacher {name!r}: {error}") from None
    model, tell = loaded.model, getattr(loaded.model, "forward_features", None)
    base = getattr(model, str(getattr(model, "base_model_prefix", "") or "-"), None)
    if isinstance(base, nn.Module):
        tell = base
    if told.kind == "text" and reads(model).size != told.size:
        raise TetherError(
            f"teacher {name!r} knows {reads(model).size} words, the model {told.size}: take one "
            "with the same tokenizer"
        )
    if layer is None and tell is None:
        raise TetherError(f"teacher {name!r} does not tell its features: give teacher_layer=...")
    image = loaded.image
    if image is None:
        return FrozenEncoder(model, layer, tell=None if layer is not None else tell)
    given = getattr(student, "pretrained_cfg", None) or {}
    seen = [given.get(n) if own is None else own for n, own in (("mean", mean), ("std", std))]
    if seen[0] is None or seen[1] is None:
        raise TetherError(
            f"teacher {name!r} has a normalisation of its own, and that of the images as they come "
            "is unknown: give mean= and std= (0 and 1 for pixels between 0 and 1)"
        )
    whole = (_all_channels(seen[0], told.size), _all_channels(seen[1], told.size))
    return FrozenEncoder(
        model, layer, tell=None if layer is not None else tell, image=image, student=whole
    )


def _all_channels(value: Any, channels: int) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return tuple(float(v) for v in (values * channels if len(values) == 1 else values))
