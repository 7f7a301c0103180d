"""Self-distillation: hidden states near those of a further-pretrained copy of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.copies import filled_copy
from tether.methods.features.calls import call_of
from tether.methods.features.depth import last_layer, warn_if_still, width_of
from tether.methods.features.rows import check_choice
from tether.methods.features.tokens import as_tokens, mean_over_tokens
from tether.methods.matching import COORDINATES
from tether.methods.records import change_record
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context


def hidden_state_distillation(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """Mean squared distance of hidden states from a teacher's.

    Args:
        student: ``[N, T, d]``.
        teacher: of the same shape; no gradient flows there.
        mask: bool ``[N, T]``, False for padding.
        reduction: over d, ``"mean"`` or ``"sum"``; over tokens, then samples, it is the mean.

    Example:
        >>> import torch
        >>> hidden_state_distillation(torch.ones(2, 3, 4), torch.zeros(2, 3, 4), reduction="sum")
        tensor(4.)
    """
    check_choice("reduction", reduction, COORDINATES)
    squares = (student - teacher.detach()).square()
    each = squares.sum(-1) if reduction == "sum" else squares.mean(-1)
    return mean_over_tokens(each.unsqueeze(-1), mask).mean()


@register(
    "self_distillation",
    kind="features",
    paper="arXiv:2210.02871",
    needs=("inputs", "reference"),
    cost="forward",
    neutral={"weight": 0.0},
    search_space={"weight": ("log", 0.1, 10.0)},
)
class SelfDistillation(Method):
    """Hold hidden states near those of a frozen copy of the model that was pretrained further.

    Further pretraining on a small unlabelled set over-fits vision networks. The paper's remedy:
    pretrain a copy further, then begin again from the pretrained weights, with the same objective
    (``masked_prediction``) and this term, whose teacher is the copy; the result stays closer to
    the start. Then fine-tune. Hurts where the copy itself is bad: stop its training early. As
    stages of one run: ``docs/recipes.md``.

    With h the layer's tokens for the whole inputs, and h' those of the teacher in evaluation
    mode::

        penalty = mean_{i, token} |h - h'|^2 / d

    Args:
        weight: lambda, >= 0, schedulable (default and paper 1; the scale of h counts: of a layer
            without a norm behind it try 0.1 and 10 too).
        teacher: ``"start"`` (default): the weights that training begins with; ``"previous"``, in
            ``tether tune``: those at the end of the stage before; a file of weights, or the folder
            of a run or of its model; or a copy of the model.
        layer: whose tokens; None (default): the last norm or block before the head.
        reduction: over d, ``"mean"`` (default) or ``"sum"``.
        source: ``"train"`` (default): on the inputs of the batch; ``"unlabelled"``: on a batch of
            inputs without labels (``tether tune --unlabelled``).

    Shape:
        layers that give rows, tokens or maps; padded tokens (``attention_mask``) do not count.

    State:
        the teacher's weights, unless it is the start.

    Cost:
        one forward of the teacher a step; on unlabelled inputs a forward and backward more.

    Raises:
        ValueError: an unknown choice.
        TetherError: no such layer, a teacher that is not there or of another shape, or
            ``"previous"`` without a stage before.

    References:
        Seanie Lee, Minki Kang, Juho Lee, Sung Ju Hwang, Kenji Kawaguchi, "Self-Distillation for
        Further Pre-training of Transformers", ICLR 2023, arXiv:2210.02871.

    Example:
        >>> SelfDistillation(weight=0.5, teacher="previous")
        SelfDistillation(weight=0.5, teacher='previous')
    """

    def __init__(
        self,
        weight: ScheduleLike = 1.0,
        teacher: str | nn.Module = "start",
        layer: str | None = None,
        reduction: str = "mean",
        source: str = "train",
    ) -> None:
        check_choice("reduction", reduction, COORDINATES)
        check_choice("source", source, ("train", "unlabelled"))
        self.weight, self.teacher, self.layer = weight, teacher, layer
        self.reduction, self.source = reduction, source
        needs = ["inputs"] if source == "train" else ["unlabelled"]
        change_record(self, needs=(*needs, *(["reference"] if teacher == "start" else [])))

    def take_facts(self, facts: dict[str, Any]) -> None:
        """Where the weights of the stage before are; None while a later stage is only checked."""
        if "previous" in facts:
            self._previous = facts["previous"]

    def setup(self, ctx: Context) -> None:
        """Tap the layer and read the teacher."""
        self._layer = self.layer or last_layer(ctx)
        ctx.tap(self._layer)
        warn_if_still(ctx)
        self._width, self._net = width_of(ctx, self._layer), None
        place = self.teacher
        if place == "previous":
            if "_previous" not in self.__dict__:
                raise TetherError(
                    f"{ctx.name!r}: teacher='previous' is for a stage of tether tune that has one "
                    "before it: give a file of weights, or a copy of the model"
                )
            place = self._previous or ctx.model  # a stage that is only looked at
        if place != "start":
            net = filled_copy(ctx, place)
            self._net = ctx.add_module("teacher", net, optimizer=None)

    def penalty(self, batch: Batch) -> Tensor:
        """Mean over the samples; the engine multiplies by ``weight``."""
        args, kwargs = call_of(batch, self.source)
        if self.source == "train":
            student = batch.taps[self._layer]
        else:
            student = self.ctx.forward(*args, **kwargs).taps[self._layer]
        if self._net is None and self.source == "train":
            found = self.ctx.teacher()
        else:
            weights: str | nn.Module = "reference" if self._net is None else self._net
            found = self.ctx.forward(*args, grad=False, mode="eval", weights=weights, **kwargs)
        own, other = (as_tokens(o, self._width) for o in (student, found.taps[self._layer]))
        mask: Any = kwargs.get("attention_mask")
        keep = mask.bool() if mask is not None and mask.shape == own.shape[:2] else None
        # samples without a label take part
        return hidden_state_distillation(own, other, keep, reduction=self.reduction)
