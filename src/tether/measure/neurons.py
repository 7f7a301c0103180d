"""Neurons that serve the rule against neurons that serve wrong labels.

The Fourier measures mean something for weights over cyclic tokens only (modular arithmetic); for
real data there is a score from activations and labels known to be wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tether.errors import ConfigError
from tether.measure.checks import ArrayLike, classes, matrix, same_length
from tether.measure.results import Record

Floats = NDArray[np.float64]

_DEAD = 1e-8  # norm below which a vector of weights is nothing
FRACTIONS = tuple(round(0.05 * i, 2) for i in range(19))


def inverse_participation_ratio(
    param: ArrayLike, *, dim: int = -1, r: int = 2, drop_dc: bool = True
) -> Tensor:
    """How few frequencies a periodic vector of weights uses: 1 for a single one.

    With ``u^`` the real discrete Fourier transform (frequencies 0 to p/2):
    ``IPR_r = sum_f |u^_f|^(2r) / (sum_f |u^_f|^2)^r``, between ``1 / floor(p/2)`` to the power
    ``r - 1`` (all frequencies equal) and 1. White noise has about ``2 / floor(p/2)`` for r = 2.
    With the full complex transform a cosine would have 1/2: this is the convention where it has 1.

    Args:
        param: weights; along ``dim`` indexed by a cyclic token.
        dim: that dimension, p entries.
        r: order, an integer from 2.
        drop_dc: leave out frequency 0, so that an added constant changes nothing.

    Shape:
        ``[..., p, ...]`` to the same without ``dim``, float64. NaN where nothing is left to
        measure (constant or vanishing weights, norm below 1e-8).

    Cost:
        One fast Fourier transform.

    Raises:
        ConfigError: fewer than 3 tokens, r below 2, weights that are not finite.

    References:
        Darshil Doshi, Aritra Das, Tianyu He, Andrey Gromov, "To grok or not to grok: Disentangling
        generalization and memorization on corrupted algorithmic datasets", 2023, arXiv:2310.13061.

    Example:
        >>> wave = torch.cos(2 * torch.pi * 3 * torch.arange(11) / 11)
        >>> round(inverse_participation_ratio(wave + 5).item(), 6)
        1.0
    """
    values = torch.as_tensor(param).detach()
    if not values.ndim or not -values.ndim <= dim < values.ndim or values.shape[dim] < 3:
        raise ConfigError(
            f"a cyclic dimension of 3 tokens or more is needed, dim={dim} of {tuple(values.shape)} "
            "is none"
        )
    if r < 2:
        raise ConfigError(f"r must be an integer from 2, not {r}")
    values = values.double().movedim(dim, -1)
    if not bool(torch.isfinite(values).all()):
        raise ConfigError("the weights hold values that are infinite or not numbers")
    power = torch.fft.rfft(values, norm="ortho").abs().square()
    power = power[..., 1:] if drop_dc else power
    total = power.sum(-1, keepdim=True)
    shares = power / torch.where(total > _DEAD**2, total, torch.nan)
    ratio: Tensor = shares.pow(r).sum(-1)
    return ratio


def fourier_ipr_per_neuron(
    inputs: Sequence[ArrayLike], output: ArrayLike | None = None, *, r: int = 2
) -> Tensor:
    """Mean localisation of each neuron's incoming and outgoing weights in frequency.

    High: a neuron that computes the rule (periodic weights); low: one that memorises. NaN for a
    neuron with a dead vector.

    ``score_k = mean of IPR_r over the vectors of neuron k``

    Args:
        inputs: one matrix for each input slot, neurons x tokens (the part of the first layer's
            weight that reads the slot).
        output: weight of the read-out, tokens x neurons, as ``nn.Linear`` keeps it.
        r: order of the ratio.

    Shape:
        H x p each, p x H; to H.

    Raises:
        ConfigError: no matrices, other numbers of neurons, or as for the ratio.

    References:
        Darshil Doshi, Aritra Das, Tianyu He, Andrey Gromov, "To grok or not to grok: Disentangling
        generalization and memorization on corrupted algorithmic datasets", 2023, arXiv:2310.13061.

    Example:
        >>> wave = torch.cos(2 * torch.pi * torch.arange(7) / 7)
        >>> spike = torch.eye(7)[0]
        >>> weights = torch.stack([wave, spike])
        >>> fourier_ipr_per_neuron([weights, weights], weights.T).round(decimals=3).tolist()
        [1.0, 0.333]
    """
    parts = [matrix(part, "input weights") for part in inputs]
    if output is not None:
        parts.append(matrix(output, "output weights").T)
    if not parts:
        raise ConfigError("no weights are given: pass the matrix of each input slot")
    same_length(**{f"the neurons of matrix {i}": part for i, part in enumerate(parts)})
    return torch.stack([inverse_participation_ratio(part, r=r) for part in parts]).mean(0)


def memorization_score(
    hidden: ArrayLike, head_weight: ArrayLike, targets: ArrayLike, corrupted: ArrayLike
) -> Tensor:
    """Which hidden units serve right labels and which serve wrong ones, on any data.

    Near 1: the unit speaks for the labels of clean samples; 1/2: for both alike; near 0: for wrong
    labels. Needs samples whose labels are known to be wrong, such as some flipped on purpose. This
    score is ours, not the paper's.

    ``a_ik = h_ik (W_{y_i k} - mean_c W_ck)``;
    ``score_k = S_clean / (S_clean + S_wrong)``, S the means of ``|a_ik|`` over either group.

    Args:
        hidden: activations that the head reads, evaluation mode.
        head_weight: its weight.
        targets: labels as given to training.
        corrupted: whether each label is wrong.

    Shape:
        n x H, K x H, n, n; to H, float64. NaN for a unit that never acts.

    Cost:
        O(n H).

    Raises:
        ConfigError: shapes that do not fit, values not finite, all or none corrupted.

    Example:
        >>> hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> memorization_score(hidden, torch.eye(2), torch.tensor([0, 1]), [False, True]).tolist()
        [1.0, 0.0]
    """
    h, w = matrix(hidden, "hidden activations"), matrix(head_weight, "head weights")
    if h.shape[1] != w.shape[1]:
        raise ConfigError(f"the head reads {w.shape[1]} units, {h.shape[1]} are given")
    y = classes(targets, h, num_classes=len(w))
    wrong = torch.as_tensor(corrupted, device=h.device)
    if wrong.shape != y.shape or not 0 < int((wrong != 0).sum()) < len(y):
        raise ConfigError("corrupted must mark some samples, not all and not none, one mark each")
    wrong = wrong != 0
    w = w.to(h.device)
    acts = (h * (w - w.mean(0))[y]).abs()
    clean, bad = acts[~wrong].mean(0), acts[wrong].mean(0)
    total = clean + bad
    return clean / torch.where(total > 0, total, torch.nan)


def effective_output_weight(
    head_weight: ArrayLike,
    gamma: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """How loudly each hidden unit speaks to the output, batch norm before the head included.

    Compare units of high and of low score: batch norm is reported to quieten memorising units,
    weight decay and dropout to turn them into others.

    ``|gamma_k| / sqrt(var_k + eps) |W_{:k}|``

    Args:
        head_weight: weight of the head.
        gamma: weight of the batch norm; None: 1.
        running_var: its running variance; None: no batch norm.
        eps: its eps.

    Shape:
        K x H, H, H; to H, float64.

    Raises:
        ConfigError: shapes that do not fit, values that are not finite.

    References:
        Darshil Doshi, Aritra Das, Tianyu He, Andrey Gromov, "To grok or not to grok: Disentangling
        generalization and memorization on corrupted algorithmic datasets", 2023, arXiv:2310.13061.

    Example:
        >>> effective_output_weight([[3.0, 0.0], [4.0, 1.0]], [2.0, 1.0]).tolist()
        [10.0, 1.0]
    """
    sizes: Tensor = matrix(torch.as_tensor(head_weight), "head weights").norm(dim=0)
    for values, name in ((gamma, "gamma"), (running_var, "running_var")):
        if values is None:
            continue
        one = matrix(torch.as_tensor(values)[None], name)[0].to(sizes.device)
        if one.shape != sizes.shape:
            raise ConfigError(f"{name} must hold {len(sizes)} numbers, one a unit")
        sizes = sizes * (one.abs() if name == "gamma" else (one + eps).rsqrt())
    return sizes


@dataclass(frozen=True, eq=False)
class PruningCurve(Record):
    """What :func:`pruning_curve` returns.

    Attributes:
        fractions: shares of the units that are masked ``[Q]``.
        pruned: how many those are ``[Q]``.
        accuracy: accuracy of each group at each fraction, name -> ``[Q]``.
        excluded: units without a score, never masked.
    """

    fractions: Floats
    pruned: list[int]
    accuracy: dict[str, Floats]
    excluded: int


def pruning_curve(
    groups: Mapping[str, tuple[ArrayLike, ArrayLike]],
    head_weight: ArrayLike,
    scores: ArrayLike,
    *,
    head_bias: ArrayLike | None = None,
    fractions: Sequence[float] = FRACTIONS,
    ascending: bool = True,
) -> PruningCurve:
    """Accuracy while hidden units are masked in the order of a score.

    If memorisation sits in neurons of its own, masking those of low score lowers the accuracy on
    wrong labels and raises that on test samples; masking those of high score is the control. Give
    the same samples twice to see both the given and the true label. Where layers follow the masked
    one before the head, or batch norm does, mask in the model and recalibrate instead.

    Args:
        groups: name -> hidden activations that the head reads and class indices, such as
            ``clean``, ``wrong_as_given``, ``wrong_true``, ``test``.
        head_weight: weight of the head.
        scores: of each unit; NaN excludes it.
        head_bias: its bias.
        fractions: shares to mask, in [0, 1].
        ascending: mask the lowest scores first; False: the highest.

    Shape:
        n x H and n; K x H; H; K.

    Cost:
        One product of n x H x K for each group and fraction.

    Raises:
        ConfigError: shapes that do not fit, values not finite, no groups, fractions out of range.

    References:
        Darshil Doshi, Aritra Das, Tianyu He, Andrey Gromov, "To grok or not to grok: Disentangling
        generalization and memorization on corrupted algorithmic datasets", 2023, arXiv:2310.13061.

    Example:
        >>> data = {"test": (torch.tensor([[1.0, 3.0]]), torch.tensor([0]))}
        >>> pruning_curve(data, torch.eye(2), [0.9, 0.1], fractions=(0, 0.5)).accuracy["test"]
        array([0., 1.])
    """
    w = matrix(head_weight, "head weights")
    order_of = torch.as_tensor(scores).detach().to(w.device).double()
    if order_of.shape != w.shape[1:]:
        raise ConfigError(f"scores must hold {w.shape[1]} numbers, one a unit the head reads")
    shares = np.asarray(fractions, dtype=np.float64)
    if not groups or not shares.size or not ((shares >= 0) & (shares <= 1)).all():
        raise ConfigError("a pruning curve needs groups of samples, and fractions in [0, 1]")
    bias = w.new_zeros(len(w))
    if head_bias is not None:
        bias = matrix(torch.as_tensor(head_bias)[None], "head bias")[0].to(w.device)
        if len(bias) != len(w):
            raise ConfigError(f"the head's bias must hold {len(w)} numbers")
    data = {}
    for name, (hidden, labels) in groups.items():
        h = matrix(hidden, f"hidden activations of {name!r}").to(w.device)
        if h.shape[1] != w.shape[1]:
            raise ConfigError(f"{name!r} has {h.shape[1]} units, the head reads {w.shape[1]}")
        data[name] = h, classes(labels, h, num_classes=len(w))
    alive = torch.nonzero(~order_of.isnan()).flatten()
    order = alive[torch.argsort(order_of[alive], descending=not ascending, stable=True)]
    counts = [math.floor(float(q) * len(order) + 0.5) for q in shares]
    accuracy: dict[str, list[float]] = {name: [] for name in data}
    for count in counts:
        kept = w.clone()
        kept[:, order[:count]] = 0
        for name, (h, y) in data.items():
            accuracy[name].append(float(((h @ kept.T + bias).argmax(1) == y).double().mean()))
    curves = {name: np.array(values) for name, values in accuracy.items()}
    return PruningCurve(shares, counts, curves, len(order_of) - len(order))


Phase = Literal[
    "memorization", "coherent", "partial_inversion", "full_inversion", "forgetting", "between"
]


def generalization_phase(
    train_acc: float,
    test_acc: float,
    corrupt_acc: float,
    xi: float,
    chance: float,
    *,
    tolerance: float = 0.1,
) -> Phase:
    """What a network trained on partly wrong labels is doing.

    - ``memorization``: fits the wrong labels, tests at chance;
    - ``coherent``: fits the wrong labels, and yet tests well;
    - ``partial_inversion``: tests well and has given up a part of the wrong labels;
    - ``full_inversion``: tests well and predicts hardly any wrong label as given, so that its
      training accuracy is ``1 - xi``: a success, however it looks;
    - ``forgetting``: training accuracy is below ``1 - xi``: over-regularised, or not yet trained;
    - ``between``: none of these.

    Tests well: within ``tolerance`` of perfect, on the scale from chance to 1.

    Args:
        train_acc: accuracy on the training labels as given.
        test_acc: accuracy on clean test labels.
        corrupt_acc: accuracy on the wrong training labels as given.
        xi: share of wrong labels, in [0, 1].
        chance: accuracy of guessing, in [0, 1).
        tolerance: slack of every comparison, above 0.

    Raises:
        ConfigError: numbers out of range.

    References:
        Darshil Doshi, Aritra Das, Tianyu He, Andrey Gromov, "To grok or not to grok: Disentangling
        generalization and memorization on corrupted algorithmic datasets", 2023, arXiv:2310.13061.

    Example:
        >>> generalization_phase(0.8, 1.0, 0.02, xi=0.2, chance=0.03)
        'full_inversion'
    """
    for name, value in {"train_acc": train_acc, "test_acc": test_acc, "xi": xi,
                        "corrupt_acc": corrupt_acc, "chance": chance}.items():  # fmt: skip
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must lie in [0, 1], not {value}")
    if chance == 1 or not tolerance > 0:
        raise ConfigError("chance must be below 1, and tolerance above 0")
    learned = (test_acc - chance) / (1 - chance)
    if train_acc < 1 - xi - tolerance:
        return "forgetting"
    if learned <= tolerance:
        return "memorization" if corrupt_acc >= 1 - tolerance else "between"
    if learned < 1 - tolerance:
        return "between"
    if corrupt_acc >= 1 - tolerance:
        return "coherent"
    return "full_inversion" if corrupt_acc <= chance + tolerance else "partial_inversion"
