"""Feature alignment: a small head on a hidden layer predicts the tokens of a frozen encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.features.alignment import (
    HEADS,
    LOSSES,
    alignment_losses,
    make_head,
    paired_tokens,
)
from tether.methods.features.depth import middle_layer, warn_if_still, width_of
from tether.methods.features.encoders import FrozenEncoder, named_encoder
from tether.methods.features.rows import check_choice
from tether.methods.features.tokens import as_tokens, value_of
from tether.methods.records import change_record
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context


@register(
    "feature_alignment",
    kind="features",
    paper="arXiv:2504.08736",
    needs=("inputs", "reference"),
    cost="forward",
    neutral={"weight": 0.0},
    search_space={"weight": ("log", 0.05, 5.0), "head": ("choice", "mlp3", "linear")},
)
class FeatureAlignment(Method):
    """Let a hidden layer predict, through a small head, the tokens of a frozen encoder.

    Taken from image tokenizers, where the features of a strong encoder keep what a large network
    learns simple. With the pretrained network itself as the encoder it works against forgetting;
    another encoder lends its features. Helps with small data and a better encoder at hand. Hurts
    when the encoder knows nothing of the data, or when the layer is the last one: the model then
    becomes what the encoder is. Choose a middle layer, and let the weight fall to 0 late.

    With tokens ``h`` of the layer, ``t`` of the encoder, and the head ``g``::

        penalty = - mean_{i, token} cos(g(h), t)

    Maps of different sizes are brought to one grid; a class token or registers before a grid are
    then left out. Where one side has no grid, the means over the tokens are compared.

    Args:
        weight: >= 0, schedulable (default and paper 0.5).
        layer: name of the student's layer; None (default): the block in the middle.
        teacher: None (default): the pretrained network as it was when training began; a name as
            ``tether tune --model`` takes it (``timm:vit_base_patch14_dinov2``, a folder); or a
            module, called as the model is.
        teacher_layer: layer of the teacher; None (default): the student's layer of the pretrained
            network, the features before the head of another encoder.
        head: ``"mlp3"`` (default and paper: three linear layers, four times as wide, SiLU),
            ``"linear"``, ``"none"``. It is trained along and gone at the end.
        loss: ``"cosine"`` (default and paper), ``"l2"`` or ``"smooth_l1"``.
        grid: larger maps of the student are averaged to so many tokens a side, at least 1
            (default and paper 16).
        teacher_weights: a file of weights of a named teacher.
        teacher_args: further arguments of a named teacher, as ``--model-args`` takes them.
        mean: of the images as they come to the model, for a named teacher, which has a
            normalisation of its own; None (default): as the run or the model says.
        std: of those images.

    Shape:
        layers that give rows ``[N, d]``, tokens ``[N, T, d]`` or maps ``[N, d, H, W]``; padded
        tokens (``attention_mask``) do not count.

    State:
        the head and its optimiser, which is like the main one.

    Cost:
        one forward of the encoder a step, and the head on every token.

    Raises:
        ValueError: an unknown choice.
        TetherError: no such layer (the nearest are named), no such encoder, one with another
            tokenizer, or tokens that are not as wide as the layer tells.

    References:
        Tianwei Xiong, Jun Hao Liew, Zilong Huang, Jiashi Feng, Xihui Liu, "GigaTok: Scaling Visual
        Tokenizers to 3 Billion Parameters for Autoregressive Image Generation", 2025,
        arXiv:2504.08736. The loss is that of Sihyun Yu et al., "Representation Alignment for
        Generation", 2024, arXiv:2410.06940.

    Example:
        >>> FeatureAlignment(layer="layer2", weight=1.0)
        FeatureAlignment(weight=1.0, layer='layer2')
    """

    def __init__(
        self,
        weight: ScheduleLike = 0.5,
        layer: str | None = None,
        teacher: str | nn.Module | None = None,
        teacher_layer: str | None = None,
        head: str = "mlp3",
        loss: str = "cosine",
        grid: int = 16,
        teacher_weights: str = "",
        teacher_args: dict[str, Any] | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
    ) -> None:
        check_choice("head", head, HEADS)
        check_choice("loss", loss, LOSSES)
        if grid < 1:
            raise ValueError(f"grid must be at least 1, got {grid}")
        if (teacher_weights or teacher_args) and not isinstance(teacher, str):
            raise ValueError("teacher_weights and teacher_args need a teacher that is named")
        self.weight, self.layer, self.head, self.loss = weight, layer, head, loss
        self.teacher, self.teacher_layer, self.grid = teacher, teacher_layer, grid
        self.teacher_weights, self.teacher_args = teacher_weights, teacher_args
        self.mean, self.std = mean, std
        if teacher is not None:
            change_record(self, needs=("inputs",))

    def take_facts(self, facts: dict[str, Any]) -> None:
        """What the run knows of the images: their normalisation, where it was not given."""
        image = facts.get("image")
        if image is not None and self.mean is None and self.std is None:
            self._seen = (image.mean, image.std)

    def setup(self, ctx: Context) -> None:
        """Tap the layers, find the encoder, make the head."""
        self._layer = self.layer or middle_layer(ctx)
        ctx.tap(self._layer)
        warn_if_still(ctx)
        self._width, self._encoder = width_of(ctx, self._layer), None
        if self.teacher is None:
            self._other = self.teacher_layer or self._layer
            ctx.tap(self._other)
            outputs = self._wide = width_of(ctx, self._other)
        else:
            self._encoder = self._find(ctx)
            self._encoder.model.to(ctx.device)
            outputs = self._encoder.width
        if self.head == "none" and outputs != self._width:
            raise TetherError(
                f"{ctx.name!r}: head='none' compares {self._width} coordinates of {self._layer!r} "
                f"with {outputs} of the teacher: take head='linear' or 'mlp3'"
            )
        self._outputs = outputs
        self._head = ctx.add_module("head", make_head(self.head, self._width, outputs))

    def _find(self, ctx: Context) -> FrozenEncoder:
        if isinstance(self.teacher, nn.Module):
            return FrozenEncoder(self.teacher, self.teacher_layer)
        mean, std = self.__dict__.get("_seen", (self.mean, self.std))
        return named_encoder(
            str(self.teacher), ctx.model, self.teacher_layer, weights=self.teacher_weights,
            args=self.teacher_args or {}, mean=mean, std=std,
        )  # fmt: skip

    def penalty(self, batch: Batch) -> Tensor:
        """Mean over the samples that count; the engine multiplies by ``weight``."""
        output = value_of(batch.taps[self._layer])
        student = as_tokens(output, self._width)
        if self._encoder is None:
            teacher = as_tokens(self.ctx.teacher().taps[self._other], self._outputs)
        else:
            half = output.dtype if output.element_size() < 4 else None
            teacher = self._encoder(batch.args, batch.kwargs, half)
        for tokens, width, whose in (
            (student, self._width, f"layer {self._layer!r}"), (teacher, self._outputs, "teacher"),
        ):  # fmt: skip
            if tokens.shape[-1] != width:
                raise TetherError(
                    f"{self.ctx.name!r}: the {whose} gives {tokens.shape[-1]} coordinates, its "
                    f"last part tells {width}: name another layer"
                )
        maps = output.ndim == 4
        student, teacher, whole = paired_tokens(student, teacher, maps=maps, grid=self.grid)
        mask: Any = batch.kwargs.get("attention_mask") if whole else None
        keep = mask.bool() if mask is not None and mask.shape == student.shape[:2] else None
        return batch.masked_mean(
            alignment_losses(self._head(student), teacher, keep, loss=self.loss)
        )
