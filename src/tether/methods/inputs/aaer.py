"""Abnormal adversarial examples regularisation: against the collapse of single-step training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.inputs.abnormal import CE_TERMS, REDUCTIONS, abnormal_adversarial_penalty
from tether.methods.inputs.fgsm_rs import RandomStartFGSM
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context


@register(
    "aaer",
    kind="inputs",
    paper="arXiv:2404.08154",
    band="penalise",
    cost="forward",
    losses=("cross_entropy", "binary_cross_entropy", "mse", "l1", "custom"),
    neutral={"weight": 0.0, "epsilon": 0.0},
    example={"epsilon": 0.1},
    stochastic=True,
    batch_statistics=True,
    search_space={"output_weight": ("log", 0.03, 3.0)},
)
class AbnormalAdversarialRegularization(Method):
    """Watch single-step adversarial training for its collapse, and work against it.

    In training by ``fgsm_rs`` a sample is abnormal when the attack step lowers its loss. Few are,
    until the network collapses (it withstands that step and nothing else): then most are. The
    penalty prices how far the outputs of abnormal samples move, beyond those of normal ones,
    weighed with their share. Helps from the start of training, against a collapse that comes
    late; it prevents and does not repair. Hurts where nothing would collapse: it costs clean
    accuracy. Weight 0 leaves the alarm alone. On small digits the alarm is right, but no setting
    that we searched shows the penalty keep a network robust (results on catastrophic overfitting).

    With o and l outputs and losses where the step began, o', l' after it, A the rows with
    ``l > l'``, N the others, and nothing where A or N is empty::

        penalty = |A|/B (ce_weight mean_A(l - l') + output_weight max(V_A - V_N, 0))
        V_A = mean_A |o' - o|^2, V_N likewise and constant; o and l are constant

    The authors' code keeps l' constant, too, so that ``ce_weight`` changes the loss that is shown
    and not what is learnt; ``ce_term="grad"`` is their formula as it is written, which raises
    the losses of abnormal samples.

    Needs ``fgsm_rs`` in the same recipe, or ``epsilon``, with which it brings its own.

    Args:
        weight: of the whole penalty, >= 0, schedulable (default and paper 1).
        ce_weight: of the fall of the loss, >= 0 (default 0; paper 1.5 to 8.5).
        output_weight: of the outputs' term, >= 0 (default 0.15; paper 0.15 to 1.5 with
            ``init=noise``, 0.75 to 3.25 with ``init=rs``, more for larger epsilon). It goes with
            the square of the logits: less for pretrained heads with large ones.
        ce_term: ``"constant"`` or ``"grad"``.
        reduction: ``"sum"`` over the classes (paper), or ``"mean"``, which suits any number.
        alarm: share of abnormal samples in an epoch above which a warning says that training has
            collapsed, in (0, 1] (default 0.25; healthy training shows a few per cent at most).
        epsilon: brings ``fgsm_rs`` with this reach; None: the one in the recipe.
        step_size: of that one.
        init: of that one.
        mean: of that one.
        std: of that one.
        bounds: of that one.

    Shape:
        logits ``[N, K]``.

    State:
        ``abnormal`` and ``counted``: samples of the epoch.

    Cost:
        O(N K) beside ``fgsm_rs``.

    Raises:
        ValueError: an option out of range.
        TetherError: no ``fgsm_rs`` in the recipe, or two.

    References:
        Runqi Lin, Chaojian Yu, Tongliang Liu, "Eliminating Catastrophic Overfitting Via Abnormal
        Adversarial Examples Regularization", NeurIPS 2023, arXiv:2404.08154.

    Example:
        >>> [part.info.name for part in AbnormalAdversarialRegularization(epsilon=0.03).expand()]
        ['fgsm_rs', 'aaer']
    """

    abnormal: Tensor
    counted: Tensor

    def __init__(
        self,
        weight: ScheduleLike = 1.0,
        ce_weight: float = 0.0,
        output_weight: float = 0.15,
        ce_term: str = "constant",
        reduction: str = "sum",
        alarm: float = 0.25,
        epsilon: ScheduleLike | None = None,
        step_size: float | None = None,
        init: str = "rs",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        bounds: Sequence[float] | None = None,
    ) -> None:
        for name, number in (("weight", weight), ("ce_weight", ce_weight),
                             ("output_weight", output_weight)):  # fmt: skip
            if isinstance(number, (int, float)) and not number >= 0:
                raise ValueError(f"{name} must be >= 0, got {number!r}")
        if ce_term not in CE_TERMS:
            raise ValueError(f"ce_term must be one of {', '.join(CE_TERMS)}, got {ce_term!r}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        if not 0.0 < alarm <= 1.0:
            raise ValueError(f"alarm must lie in (0, 1], got {alarm!r}")
        self.weight, self.ce_weight, self.output_weight = weight, ce_weight, output_weight
        self.ce_term, self.reduction, self.alarm = ce_term, reduction, alarm
        self.epsilon, self.step_size, self.init = epsilon, step_size, init
        self.mean, self.std, self.bounds = mean, std, bounds
        self._own: RandomStartFGSM | None = None
        if epsilon is not None:
            self._own = RandomStartFGSM(epsilon, step_size, init, mean, std, bounds)

    def expand(self) -> tuple[Method, ...]:
        """The attack, where it brings one, and itself."""
        return (self,) if self._own is None else (self._own, self)

    def setup(self, ctx: Context) -> None:
        """Find the attack."""
        found = ctx.partner(RandomStartFGSM)
        if not isinstance(found, RandomStartFGSM):
            raise TetherError(
                f"{ctx.name!r} works on the attack of 'fgsm_rs': put it into the same recipe "
                "(--method fgsm_rs:epsilon=0.03), or give aaer an epsilon of its own"
            )
        self._attack = found
        self.add_state("abnormal", torch.zeros((), device=ctx.device), sync="sum")
        self.add_state("counted", torch.zeros((), device=ctx.device), sync="sum")
        self._last: dict[str, Tensor] = {}

    def epoch_start(self, epoch: int) -> None:
        """Count anew."""
        self.abnormal.zero_()
        self.counted.zero_()

    def penalty(self, batch: Batch) -> Tensor:
        """The price of this batch's abnormal samples."""
        start = self._attack.start_logits
        if start is None:  # epsilon is 0 by now
            return batch.logits.sum() * 0.0
        losses = [self.ctx.sample_losses(z, batch.targets) for z in (start, batch.logits)]
        price, about = abnormal_adversarial_penalty(
            start, losses[0], batch.logits, losses[1], ce_weight=self.ce_weight,
            output_weight=self.output_weight, ce_term=self.ce_term, reduction=self.reduction,
            mask=batch.mask,
        )  # fmt: skip

        def note() -> None:
            self.abnormal += about["abnormal"]
            self.counted += about["counted"]
            self._last = about

        self.ctx.defer(note)
        return price

    def epoch_end(self, epoch: int) -> None:
        """Raise the alarm."""
        share = self.measure()["abnormal_fraction"]
        if share > self.alarm:
            warnings.warn(
                f"catastrophic overfitting: in epoch {epoch} the attack step lowered the loss of "
                f"{share:.0%} of the samples, so that the network may withstand nothing but that "
                "step: go back to an earlier epoch, with a smaller epsilon, init='noise' or a "
                "larger output_weight, and check with attacks of many steps",
                stacklevel=2,
            )

    def measure(self) -> dict[str, Any]:
        """Share of abnormal samples in the epoch so far; V_ce and V_A of the last batch."""
        found = {"abnormal_fraction": float(self.abnormal) / max(float(self.counted), 1.0)}
        last = {k: float(v) for k, v in self._last.items() if k.endswith("variation")}
        return found | {"alarm": float(found["abnormal_fraction"] > self.alarm)} | last
