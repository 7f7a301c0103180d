"""A PAC-Bayes bound on the error of a fine-tuned network under weight noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from tether.engine.reference import canonical, named_tensors
from tether.errors import ConfigError
from tether.losses import LossLike
from tether.measure.batches import Batches
from tether.measure.evaluation import Evaluation
from tether.measure.pac_bayes_formulas import (
    bound_kl,
    bound_sqrt,
    complexity,
    gaussian_kl,
    kl_inverse,
)
from tether.measure.pac_bayes_priors import FAMILIES, Choice, check_choices, choices_of
from tether.measure.results import Record
from tether.measure.weights import (
    Perturbation,
    named_weights,
    reference_weights,
    undisturbed,
)
from tether.words import listed

#: 3e-3 to 3e-1.
SIGMAS = tuple(float(s) for s in np.geomspace(3e-3, 3e-1, 8))
#: Draws by which the noise is chosen, before those that count.
_PILOT = 20
ASSUMPTIONS = (
    "the samples were drawn independently from one source; the bound is about that source, its "
    "wrong labels included",
    "the reference does not depend on these samples",
    "tensors that equal their reference exactly were frozen from the start",
)


@dataclass(frozen=True)
class Candidate(Record):
    """One size of the noise that was tried.

    Attributes:
        family: of the noise.
        sigma: its size, as in the argument ``sigmas``.
        kl: relative entropy to the prior, in nats.
        noisy_error: mean error under the noise, from a few draws.
        bound: what the bound would be if that were exact; the smallest is taken.
        sqrt_form: the same in the additive form.
    """

    family: str
    sigma: float
    kl: float
    noisy_error: float
    bound: float
    sqrt_form: float


@dataclass(frozen=True)
class PacBayes(Record):
    """What :func:`pac_bayes_bound` returns. Errors are shares between 0 and 1.

    Attributes:
        bound: the bound on the error of the network with noise: the kl form.
        sqrt_form: the weaker additive form, which may exceed 1.
        ranking: smallest additive form of the first family, from few draws. No bound, but it
            orders runs on the same samples also where all bounds are close to 1: there the noise
            taken for ``bound`` drowns every network alike.
        vacuous: whether it allows no smaller error than guessing does.
        certificate: whether the conditions that can be checked hold.
        reasons: why not.
        assumptions: conditions that cannot be checked.
        statement: what all this means, in words.
        error: of the network itself on the samples.
        noisy_error: mean over the draws of the noise.
        noisy_error_bound: what the draws allow it to be.
        draw_slack: the difference of the two.
        kl: relative entropy of posterior and prior, in nats.
        grid: what choosing the noise costs, in nats.
        complexity: all that is paid for a sample, in nats.
        guessing: error of guessing among the classes.
        family: the noise taken: ``"isotropic"``, ``"start"``, ``"distance"``, or ``"none"`` where
            nothing moved.
        sigma: its size.
        sigmas: standard deviation of the noise on each tensor that moved.
        layer_kl: share of each tensor in ``kl``.
        candidates: all that was tried.
        samples: n.
        draws: independent draws of noise behind ``noisy_error``.
        delta: probability that the bound is wrong.
    """

    bound: float
    sqrt_form: float
    ranking: float
    vacuous: bool
    certificate: bool
    reasons: tuple[str, ...]
    assumptions: tuple[str, ...]
    statement: str
    error: float
    noisy_error: float
    noisy_error_bound: float
    draw_slack: float
    kl: float
    grid: float
    complexity: float
    guessing: float
    family: str
    sigma: float
    sigmas: dict[str, float]
    layer_kl: dict[str, float]
    candidates: tuple[Candidate, ...]
    samples: int
    draws: float
    delta: float


def pac_bayes_bound(
    model: nn.Module,
    reference: Mapping[str, Tensor],
    data: Batches,
    *,
    delta: float = 0.05,
    draws: int = 200,
    sigmas: Sequence[float] = SIGMAS,
    families: Sequence[str] = FAMILIES,
    from_zero: Sequence[str] = (),
    loss: LossLike = "cross_entropy",
    max_samples: int | None = None,
    seed: int = 0,
) -> PacBayes:
    """Upper bound on the error of the network with noise on its weights, from training data alone.

    The less the weights moved and the more noise they bear, the smaller it is. It is about the
    NOISY network. Expect it to be vacuous after ordinary fine-tuning on some hundred samples; it
    becomes informative for short distances (strong constraints, adapters, a new head alone) and
    many samples. It orders runs long before it says something about one.

    With prior ``P = N(W0, sigma_i^2 I)`` and posterior ``Q = N(W, sigma_i^2 I)`` on every tensor
    that moved, biases and normalisation layers included,
    ``KL = sum_i |W_i - W0_i|_F^2 / (2 sigma_i^2)``, and with probability 1 - delta over the n
    samples: ``kl(err_n(Q) || err(Q)) <= (KL + ln(1/pi) + ln(2 sqrt(n) / (delta/2))) / n``, solved
    for the largest err(Q). Here err_n(Q) is itself bounded from m draws, which holds with
    probability 1 - delta/2: ``kl(mean of draws || err_n(Q)) <= ln(2 / delta) / m``. Each batch of
    each pass gets its own draw: m counts them, by the largest batch's share.

    The prior must not depend on the samples, so what chooses it is paid by a union bound, pi being
    the weight of the choice. Of F families with G sigmas s each:

    - ``"isotropic"``: ``sigma_i = s``; ``pi = 1 / (F G)``
    - ``"start"``: ``sigma_i = s |W0_i|_F / sqrt(numel)`` (that of the whole network for a tensor
      that was zero); ``pi = 1 / (F G)``
    - ``"distance"``: ``sigma_i = s |W_i - W0_i|_F`` rounded to one of 31 powers of two, each
      tensor's choice paid: ``pi = 1 / (F 31^L)``, L tensors that moved

    The noise is chosen by 20 draws a candidate, the error then estimated from fresh ones.

    Args:
        model: any module in float32 or float64.
        reference: state dict of the start, buffers included.
        data: the training samples as they were given to training, without augmentation: batches,
            a loader or a data set; read once.
        delta: probability that the bound is wrong, between 0 and 1.
        draws: least number of draws m, from 1.
        sigmas: sizes s to choose from, above 0.
        families: some of the three.
        from_zero: names, or prefixes of modules, whose prior has its mean at zero.
        loss: tells the form of the targets; classes, several labels or tokens.
        max_samples: use so many; None uses all. The fewer, the weaker the bound.
        seed: of the draws.

    Cost:
        With B batches of one size, ``1 + F G max(1, 20 / B) + max(1, draws / B)`` forwards over
        the data, and a random number a weight for each of 20 + m draws, which is what costs where
        batches are small; two copies of the weights that moved, and the samples, in memory.

    Raises:
        ConfigError: an option out of range, tensors that the reference lacks (named), or targets
            that are no classes.
        TetherError: weights or loss that are not finite, or in half precision.

    References:
        David A. McAllester, "PAC-Bayesian Model Averaging", COLT 1999.
        Andreas Maurer, "A Note on the PAC Bayesian Theorem", 2004, arXiv:cs/0411099.
        John Langford, Rich Caruana, "(Not) Bounding the True Error", NIPS 2001.
        Gintare Karolina Dziugaite, Daniel M. Roy, "Computing Nonvacuous Generalization Bounds for
        Deep (Stochastic) Neural Networks with Many More Parameters than Training Data", 2017,
        arXiv:1703.11008.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> start = {name: t.clone() for name, t in net.state_dict().items()}
        >>> data = [(torch.randn(50, 2), torch.randint(2, (50,)))]
        >>> found = pac_bayes_bound(net, start, data, draws=10)
        >>> found.kl, found.noisy_error == found.error, found.error < found.bound <= 1
        (0.0, True, True)
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta must lie between 0 and 1, got {delta}")
    if draws < 1:
        raise ConfigError(f"draws must be at least 1, got {draws}")
    check_choices(sigmas, families)
    with undisturbed(model) as inner:
        named = named_weights(inner)
        start = reference_weights(named, reference, from_zero)
        moved = {n: p for n, p in named.items() if not torch.equal(p.detach(), start[n])}
        distances = [float((p.detach() - start[n]).double().norm()) for n, p in moved.items()]
        choices = choices_of(moved, start, distances, sigmas, families)
        evaluation = Evaluation(inner, data, loss=loss, max_samples=max_samples)
        with Perturbation(moved, seed) as noise:
            error = _error(evaluation)
            tried = _try(evaluation, noise, choices, distances, delta / 2)
            best = min(range(len(choices)), key=lambda i: tried[i].bound)
            chosen = choices[best]
            passes = _passes(evaluation, draws)
            noisy = error
            if moved:
                noisy = _noisy_errors(evaluation, noise, "final", passes, [chosen])[0]
        reasons = _reasons(inner, reference)
    made = passes * evaluation.count / max(evaluation.counts) if moved else math.inf
    share = delta / 2 if moved else delta
    above = {"draws": made, "delta": share if moved else 1.0}
    cost = complexity(tried[best].kl, evaluation.count, share, chosen.grid)
    bound = bound_kl(noisy, cost, **above)
    allowed = kl_inverse(noisy, math.log(1 / above["delta"]) / made)
    guessing = _guessing(evaluation)
    sizes = dict(zip(moved, chosen.sigmas, strict=True))
    shares = {n: gaussian_kl([d], [sizes[n]]) for n, d in zip(moved, distances, strict=True)}
    found = PacBayes(
        bound, bound_sqrt(noisy, cost, **above),
        min(each.sqrt_form for each in tried if each.family == tried[0].family),
        bound >= guessing, not reasons, reasons,
        ASSUMPTIONS, "", error, noisy, allowed, allowed - noisy, tried[best].kl, chosen.grid, cost,
        guessing, chosen.family, chosen.size, sizes, shares, tuple(tried), evaluation.count, made,
        float(delta),
    )  # fmt: skip
    return _stated(found)


def _try(
    evaluation: Evaluation, noise: Perturbation, choices: Sequence[Choice],
    distances: Sequence[float], delta: float,
) -> list[Candidate]:  # fmt: skip
    """Every choice under a few draws, the same for all."""
    if not noise.names:
        error, cost = _error(evaluation), complexity(0.0, evaluation.count, delta)
        return [
            Candidate("none", 0.0, 0.0, error, kl_inverse(error, cost), bound_sqrt(error, cost))
        ]
    passes = _passes(evaluation, _PILOT)
    errors = _noisy_errors(evaluation, noise, "pilot", passes, choices)
    tried = []
    for choice, error in zip(choices, errors, strict=True):
        kl = gaussian_kl(distances, choice.sigmas)
        cost = complexity(kl, evaluation.count, delta, choice.grid)
        forms = bound_kl(error, cost), bound_sqrt(error, cost)
        tried.append(Candidate(choice.family, choice.size, kl, error, *forms))
    return tried


# -- errors ----------------------------------------------------------------------------------------


def _passes(evaluation: Evaluation, draws: int) -> int:
    """Passes over the data that make so many draws, one for each batch of each pass.

    Means weigh the batches by their samples. The inequality for m equal draws holds for unequal
    ones with ``m = 1 / largest weight``.
    """
    return max(1, math.ceil(draws * max(evaluation.counts) / evaluation.count))


def _error(evaluation: Evaluation) -> float:
    errors = [evaluation.errors(place) for place in range(len(evaluation.batches))]
    return float(torch.stack(errors).sum()) / evaluation.count


def _noisy_errors(
    evaluation: Evaluation, noise: Perturbation, key: str, passes: int, choices: Sequence[Choice]
) -> list[float]:
    """Mean error under each choice of the noise, from the same draws."""
    totals: list[Tensor | float] = [0.0] * len(choices)
    for turn in range(passes):
        for place in range(len(evaluation.batches)):
            noise.draw("pac-bayes", key, turn, place)
            for i, choice in enumerate(choices):
                noise.apply_each(choice.sigmas)
                totals[i] = totals[i] + evaluation.errors(place)
    noise.restore()
    return [float(total) / (passes * evaluation.count) for total in totals]


def _guessing(evaluation: Evaluation) -> float:
    """Error of drawing one of K classes, or each of several labels, with equal chances."""
    one_of_many = evaluation.task.kind in ("cross_entropy", "token_cross_entropy")
    return 1 - 1 / evaluation.outputs if one_of_many else 0.5


# -- in words --------------------------------------------------------------------------------------


def _reasons(model: nn.Module, reference: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Why the number is no certificate, as far as it can be seen."""
    given = {canonical(name): tensor for name, tensor in reference.items()}
    parameters = {canonical(name) for name, _ in model.named_parameters()}
    buffers = {
        name: tensor
        for name, tensor in named_tensors(model)
        if name not in parameters and tensor.is_floating_point()
    }
    unknown = [name for name in buffers if name not in given]
    moved = [
        name for name, tensor in buffers.items() if name in given and not _same(tensor, given[name])
    ]
    reasons = []
    if moved:
        reasons.append(
            f"the buffers {listed(moved, 2)} moved with the training data (batch norm's running "
            "statistics: freeze them), and no noise covers them"
        )
    if unknown:
        reasons.append(
            f"the reference lacks the buffers {listed(unknown, 2)}: whether they moved is unknown"
        )
    return tuple(reasons)


def _same(tensor: Tensor, other: Tensor) -> bool:
    return tensor.shape == other.shape and torch.equal(
        tensor.detach(), other.detach().to(tensor.device, tensor.dtype)
    )


def _stated(found: PacBayes) -> PacBayes:
    noise = "" if found.family == "none" else " with noise on its weights"
    sure = f"{100 * (1 - found.delta):.4g} %"
    text = (
        f"with probability {sure} over the draw of the {found.samples} samples, the network{noise} "
        f"errs on at most {_percent(found.bound)} of new samples from the same source (on these: "
        f"{_percent(found.noisy_error)}"
    )
    text += f" with the noise, {_percent(found.error)} without it)" if noise else ")"
    if found.vacuous:
        why = "the weights moved too far for so few samples" if noise else "the samples are too few"
        text += (
            f". This is vacuous: guessing errs on {_percent(found.guessing)}; {why} (KL "
            f"{found.kl:.4g} nats, in all {found.complexity:.3g} a sample). That does not make "
            "the network a bad one"
        )
    elif noise:
        text += ". It says nothing of the network without noise"
    if not found.certificate:
        text = f"this is no certificate, since {'; and '.join(found.reasons)}. Were it one: {text}"
    return replace(found, statement=text[0].upper() + text[1:] + ".")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
