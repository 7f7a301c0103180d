"""Hessian alignment (Hemati et al., 2023): domains in which the head has one loss surface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.features.rows import check_choice
from tether.methods.gradients.head_curvature import (
    KINDS,
    REFERENCES,
    domain_shares,
    hessian_alignment_penalty,
)
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context


@register(
    "hessian_alignment",
    kind="gradients",
    paper="arXiv:2308.11778",
    needs=("features", "domains"),
    cost="light",
    losses=("cross_entropy", "binary_cross_entropy"),
    neutral={"weight": 0.0, "balance": False},
    example={"weight": 100.0},
    batch_statistics=True,
    search_space={
        "weight": ("log", 1e-1, 1e5), "kind": ("choice", *KINDS), "alpha": ("choice", 1e-3, 1.0),
        "beta": ("choice", 1e-3, 1.0),
    },
)  # fmt: skip
class HessianAlignment(Method):
    """Makes gradients and curvature of the head agree between domains, for domains never seen.

    Where a shortcut predicts the label in some training domains better than in others, the head's
    loss has another gradient and another Hessian in each; features on which they agree transfer.
    Helps where the training data come from several known domains (hospitals, cameras, styles) and
    the model must work in another one. Hurts accuracy in the training domains, which the shortcut
    served. Too large a weight makes the features vanish, which aligns everything: watch their
    norm. A shift of label shares between domains counts as a difference, too. The penalty fades
    with the gradients as the fit improves, so the weight spans many powers of ten; let it rise
    after the first fit: ``weight="step(1, 1e4, 0.3)"``.

    With g_e the gradient of domain e's mean loss with respect to the head's weights and bias, H_e
    its Hessian, g and H those of the mean over the m domains of the batch::

        penalty = (1/m) sum_e [ alpha |h_e - h|^2 + beta |g_e - g|^2 ]
        hgp:         h_e = H_e g_e,    h = H g
        hutchinson:  h_e = diag(H_e),  h = diag(H)

    All in closed form for a linear head: exact, without differentiating twice and without random
    probes. A batch of one domain has penalty 0. In several processes each aligns its own samples.

    Args:
        weight: >= 0, schedulable (default 1); multiplies both terms.
        kind: ``"hgp"`` (default) or ``"hutchinson"``.
        alpha: price of differing curvature, >= 0 (default and paper's code 1e-4 for hgp; for
            hutchinson the paper searches 10 to 1e4).
        beta: price of differing gradients, >= 0 (default and paper's code 5e-3 for hgp; for
            hutchinson the paper searches 100 to 1e6).
        reference: for hgp, h is ``"mean_loss"`` (default) or ``"mean_of_products"``, the mean of
            all h_e.
        detach_reference: no gradient through g and h (default, as in the paper's code).
        balance: the task loss is the mean over domains of their means (default).

    Shape:
        Features ``[N, d]``, logits ``[N, C]``, domains ``[N]``: ``reg.loss(..., domains=...)``.

    State:
        None.

    Cost:
        O(N (N + C) d) a step, in float64.

    Raises:
        ValueError: an unknown kind or reference, a negative number.
        TetherError: a head that is not linear.

    References:
        Sobhan Hemati, Guojun Zhang, Amir Estiri, Xi Chen, "Understanding Hessian Alignment for
        Domain Generalization", ICCV 2023, arXiv:2308.11778.

    Example:
        >>> HessianAlignment(kind="hutchinson", alpha=100, beta=1000)
        HessianAlignment(kind='hutchinson', alpha=100, beta=1000)
    """

    def __init__(
        self, weight: ScheduleLike = 1.0, kind: str = "hgp", alpha: float = 1e-4,
        beta: float = 5e-3, reference: str = "mean_loss", detach_reference: bool = True,
        balance: bool = True,
    ) -> None:  # fmt: skip
        check_choice("kind", kind, KINDS)
        check_choice("reference", reference, REFERENCES)
        for name, value in (("weight", weight), ("alpha", alpha), ("beta", beta)):
            if isinstance(value, (int, float)) and not value >= 0:
                raise ValueError(f"{name} must be >= 0, got {value!r}")
        self.weight = weight
        self.kind = kind
        self.alpha = alpha
        self.beta = beta
        self.reference = reference
        self.detach_reference = detach_reference
        self.balance = balance

    def setup(self, ctx: Context) -> None:
        """Look whether the head is linear, and whether it has a bias."""
        head = ctx.head_module
        weight = getattr(head, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise TetherError(
                f"method {ctx.name!r}: its formulas are those of a linear head, not of a "
                f'{type(head).__name__}; name the last linear layer with attach(..., head="...")'
            )
        self._bias = getattr(head, "bias", None) is not None
        self._domains = torch.zeros((), device=ctx.device)  # a diagnostic: not saved

    def weight_samples(self, batch: Batch) -> Tensor | None:
        """Each domain counts alike: 1 over its size, with mean 1 over the rows that count."""
        if not self.balance:
            return None
        domains = batch.extras["domains"]
        mean = domain_shares(domains, batch.mask, batch.logits.dtype).mean
        count = len(domains) if batch.mask is None else batch.mask.sum()
        return mean * count

    def penalty(self, batch: Batch) -> Tensor:
        """Spread of the domains' gradients and curvatures."""
        domains, features = batch.extras["domains"], batch.need_features()
        shares = domain_shares(domains, batch.mask, features.dtype)

        def write() -> None:
            rows = shares.counted / (shares.own > 0).sum(1).clamp(min=1)
            self._domains = rows.sum()

        self.ctx.defer(write)
        link = "softmax" if self.ctx.loss_kind == "cross_entropy" else "sigmoid"
        return hessian_alignment_penalty(
            features, batch.logits, batch.targets, domains, kind=self.kind, alpha=self.alpha,
            beta=self.beta, reference=self.reference, detach=self.detach_reference,
            bias=self._bias, link=link, mask=batch.mask,
        )  # fmt: skip

    def measure(self) -> dict[str, Any]:
        """How many domains the last batch held."""
        return {"domains_in_batch": float(self._domains)}
