"""Masked prediction: go on pretraining, without labels, by predicting what was hidden."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.features.calls import call_of, first_of, replaced, without_task
from tether.methods.features.decoders import make_decoder, own_patch, place_codes
from tether.methods.features.depth import last_layer, reads, warn_if_still, width_of
from tether.methods.features.masking import (
    hide_patches,
    masked_number_losses,
    masked_patch_losses,
    masked_word_losses,
    random_mask,
)
from tether.methods.features.rows import check_choice
from tether.methods.features.tokens import as_tokens, mean_over_tokens, on_grid
from tether.methods.records import change_record
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context

SOURCES = ("train", "unlabelled")
_RATIOS = {"image": 0.75, "text": 0.15, "rows": 0.5}


@register(
    "masked_prediction",
    kind="features",
    paper="arXiv:2111.06377",
    needs=("inputs",),
    cost="forward",
    neutral={"weight": 0.0, "alone": False},
    example={"patch": 2},
    stochastic=True,
    search_space={"weight": ("log", 0.1, 10.0)},
)
class MaskedPrediction(Method):
    """Go on pretraining without labels: hide patches or words, and predict them.

    The objective of further pretraining: with ``alone`` the task loss is left out and no label is
    read. Helps where there are many more inputs than labels, in texts above all. Hurts a vision
    network on a small set, which it fits too well: ``self_distillation`` then trains it again.

    A second forward sees the inputs with parts hidden; from a layer's output a small
    decoder predicts them::

        images   penalty = mean over pixels of hidden patches of (decoder(h, place) - x)^2
        texts    penalty = mean over hidden words of - log softmax(E g(h))[word]
        numbers  penalty = mean over hidden numbers of (decoder(h) - x)^2

    Hidden patches and numbers are 0, the mean of normalised inputs, so that every network can
    read them (masked autoencoders leave them out, as only transformers can). A hidden word is the
    tokenizer's mask; ``g`` is a layer, and ``E`` the model's own embedding of words.

    Args:
        weight: >= 0, schedulable (default 1).
        ratio: share that is hidden, in (0, 1); None (default): 0.75 of the patches of an image,
            0.15 of the words of a text, 0.5 of the numbers of a row.
        patch: side of a patch in pixels, at least 1; None (default): that of a vision
            transformer, else 16. Networks that shrink their maps want 32 of 224 pixels.
        layer: what the decoder reads; None (default): the last norm or block before the head.
        source: ``"train"`` (default): the inputs of the batch; ``"unlabelled"``: a batch of inputs
            without labels (``tether tune --unlabelled``).
        alone: leave out the task loss (default). False: an auxiliary loss beside it.
        normalize: compare with patches of mean 0 and deviation 1 (default False).
        mask_token: index of the word that hides others; None (default): the tokenizer's in
            ``tether tune``, else words drawn at random.
        keep: indices of words that are never hidden; in ``tether tune`` the tokenizer's special
            ones are added.

    Shape:
        images ``[N, C, H, W]``, words ``[N, T]`` (padding by ``attention_mask``), rows ``[N, d]``.

    State:
        the decoder and its optimiser, which is like the main one.

    Cost:
        one further forward and backward a step.

    Raises:
        ValueError: an option out of range.
        TetherError: no such layer, no unlabelled batch, or an embedding split among processes.

    References:
        Kaiming He et al., "Masked Autoencoders Are Scalable Vision Learners", 2021,
        arXiv:2111.06377; Zhenda Xie et al., "SimMIM", 2021, arXiv:2111.09886 (a small decoder,
        inputs of full size); Jacob Devlin et al., "BERT", 2018, arXiv:1810.04805.

    Example:
        >>> MaskedPrediction(ratio=0.6, patch=8)
        MaskedPrediction(ratio=0.6, patch=8)
    """

    def __init__(
        self,
        weight: ScheduleLike = 1.0,
        ratio: float | None = None,
        patch: int | None = None,
        layer: str | None = None,
        source: str = "train",
        alone: bool = True,
        normalize: bool = False,
        mask_token: int | None = None,
        keep: list[int] | tuple[int, ...] = (),
    ) -> None:
        check_choice("source", source, SOURCES)
        if ratio is not None and not 0.0 < ratio < 1.0:
            raise ValueError(f"ratio must lie in (0, 1), got {ratio!r}")
        if patch is not None and patch < 1:
            raise ValueError(f"patch must be at least 1, got {patch!r}")
        self.weight, self.ratio, self.patch, self.layer = weight, ratio, patch, layer
        self.source, self.alone, self.normalize = source, alone, normalize
        self.mask_token, self.keep = mask_token, keep
        if source == "unlabelled":
            change_record(self, needs=("unlabelled",))

    def take_facts(self, facts: dict[str, Any]) -> None:
        """The words that the tokenizer hides others with, and never hides."""
        self._told = (facts.get("mask_token"), facts.get("special_tokens", ()))

    def setup(self, ctx: Context) -> None:
        """Tap the layer and make a decoder for what the model reads."""
        self._layer = self.layer or last_layer(ctx)
        ctx.tap(self._layer)
        warn_if_still(ctx)
        self._reads = reads(ctx.model)
        kind, _, first = self._reads
        self._width = width_of(ctx, self._layer)
        self._ratio = _RATIOS[kind] if self.ratio is None else self.ratio
        mask, special = self.__dict__.get("_told", (None, ()))
        self._mask = mask if self.mask_token is None else self.mask_token
        self._kept = torch.tensor([*self.keep, *special], device=ctx.device, dtype=torch.int64)
        self._patch = self.patch or own_patch(self._reads)
        if hasattr(first.weight, "_local_tensor") and kind == "text":
            raise TetherError(f"{ctx.name!r}: the words' embedding is split by fully_shard")
        decoder = make_decoder(self._reads, self._width, self._patch)
        self._decoder = ctx.add_module("decoder", decoder)

    def weight_samples(self, batch: Batch) -> Tensor | None:
        """Nothing of the task loss, where the objective stands alone."""
        return without_task(batch) if self.alone else None

    def penalty(self, batch: Batch) -> Tensor:
        """Mean loss of predicting what was hidden."""
        args, kwargs = call_of(batch, self.source)
        make = {"image": self._images, "text": self._words, "rows": self._rows}[self._reads.kind]
        return make(args, kwargs).mean()  # samples without a label take part

    def _tokens(self, args: Any, kwargs: Any, old: Tensor, new: Tensor) -> Tensor:
        args, kwargs = replaced(args, kwargs, old, new)
        return as_tokens(self.ctx.forward(*args, **kwargs).taps[self._layer], self._width)

    def _images(self, args: Any, kwargs: Any) -> Tensor:
        x, patch = first_of(args, kwargs, ndim=4, floating=True), self._patch
        rows, columns = (math.ceil(side / patch) for side in x.shape[-2:])
        allowed = torch.ones(len(x), rows * columns, dtype=torch.bool, device=x.device)
        mask = random_mask(allowed, self._ratio, self.ctx.generator)
        tokens = on_grid(self._tokens(args, kwargs, x, hide_patches(x, mask, patch)), rows, columns)
        places = place_codes(rows, columns, x.device).expand(len(x), -1, -1)
        predicted = self._decoder(torch.cat([tokens, places], -1))
        return masked_patch_losses(predicted, x.float(), mask, patch, normalize=self.normalize)

    def _words(self, args: Any, kwargs: Any) -> Tensor:
        ids = first_of(args, kwargs, ndim=2, floating=False)
        allowed = ~torch.isin(ids, self._kept)
        padding = kwargs.get("attention_mask")
        if padding is not None and padding.shape == ids.shape:
            allowed = allowed & padding.bool()
        mask = random_mask(allowed, self._ratio, self.ctx.generator)
        draw = torch.randint(
            self._reads.size, ids.shape, generator=self.ctx.generator, device=ids.device
        )
        hidden = torch.where(mask, draw if self._mask is None else self._mask, ids)
        tokens = self._tokens(args, kwargs, ids, hidden)
        most = max(1, round(ids.shape[1] * self._ratio))
        counts, places = mask.float().topk(most, dim=1)  # as many in each row: nothing waits
        width = tokens.shape[-1]
        seen = self._decoder(tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, width)))
        logits = F.linear(seen, self._reads.first.weight.to(seen.dtype))  # type: ignore[arg-type, operator, unused-ignore]
        return masked_word_losses(logits, ids.gather(1, places), counts > 0)

    def _rows(self, args: Any, kwargs: Any) -> Tensor:
        x = first_of(args, kwargs, ndim=None, floating=True)
        flat = x.flatten(1)
        mask = random_mask(torch.ones_like(flat, dtype=torch.bool), self._ratio, self.ctx.generator)
        hidden = flat.masked_fill(mask, 0.0).view_as(x)
        predicted = self._decoder(mean_over_tokens(self._tokens(args, kwargs, x, hidden)))
        return masked_number_losses(predicted, flat.float(), mask)
