"""How the classes of the pretrained model relate to the new ones: the table of Co-Tuning."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from tether.errors import TetherError
from tether.methods.features.class_membership import add_class_sums
from tether.methods.features.rows import check_choice

RELATIONSHIPS = ("direct", "reverse")
#: Strengths of the logistic regression that are tried, as scikit-learn's C.
STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-8, 9))


def class_relationship(
    source_logits: Tensor,
    targets: Tensor,
    *,
    relationship: str = "direct",
    num_classes: int | None = None,
    calibration: float = 1.0,
) -> Tensor:
    """Table ``p(old class | new class)`` from what the old head says of the new samples.

    ``"direct"``: mean of the old head's probabilities over the samples of each new class.
    ``"reverse"``: a logistic regression without intercept from old probabilities to new labels
    gives ``p(new | old)``, sharpened or flattened by one temperature; Bayes' rule with the mean
    old probabilities turns it round. Its strength and temperature are chosen on every fifth
    sample of a class, which the regression does not see.

    Args:
        source_logits: old head's logits of the training samples ``[n, K_s]``.
        targets: new class of each ``[n]``; negative ones are left out.
        relationship: ``"direct"`` or ``"reverse"``.
        num_classes: K_t; default: the largest label and 1.
        calibration: factor on the logits before the softmax.

    Returns:
        ``[K_t, K_s]``; rows sum to 1.

    Raises:
        TetherError: a new class without samples.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
        >>> class_relationship(logits, torch.tensor([1, 0])).round()
        tensor([[0., 1.],
                [1., 0.]])
    """
    check_choice("relationship", relationship, RELATIONSHIPS)
    count = int(targets.max()) + 1 if num_classes is None else num_classes
    keep = targets >= 0
    probs, labels = (calibration * source_logits[keep]).double().softmax(1), targets[keep]
    sums, sizes = probs.new_zeros(count, probs.shape[1]), probs.new_zeros(count)
    add_class_sums(sums, sizes, probs, labels)
    empty = (sizes == 0).nonzero().flatten().tolist()
    if empty:
        raise TetherError(f"no training sample of the classes {', '.join(map(str, empty[:10]))}")
    table = sums / sizes[:, None]
    if relationship == "reverse":
        table = _reverse(probs, labels, count)
    wide = torch.promote_types(source_logits.dtype, torch.float32)
    return table.to(wide)


def _reverse(probs: Tensor, labels: Tensor, count: int) -> Tensor:
    place = (one_hot(labels, count).cumsum(0)).gather(1, labels[:, None]).squeeze(1)
    held = place % 5 == 0
    if not held.any():  # fewer than five samples a class
        held = torch.ones_like(held)
        train = held
    else:
        train = ~held
    fits = []
    coefficient = probs.new_zeros(count, probs.shape[1])
    for strength in STRENGTHS:  # from strong to weak regularisation, each from the one before
        coefficient = fit_logistic(probs[train], labels[train], coefficient, strength)
        logits = probs[held] @ coefficient.T
        right = (logits.argmax(1) == labels[held]).double().mean()
        fits.append((float(right), -float(cross_entropy(logits, labels[held])), coefficient))
    best = max(fits, key=lambda fit: fit[:2])[2]  # of equally accurate ones the likeliest
    scale = _fit_scale(probs[held] @ best.T, labels[held])
    target_given_source = (scale * best).softmax(0)  # [K_t, K_s]
    joint = target_given_source * probs.mean(0)
    return joint / joint.sum(1, keepdim=True)


@torch.enable_grad()
def fit_logistic(inputs: Tensor, labels: Tensor, start: Tensor, strength: float) -> Tensor:
    """Multinomial logistic regression without intercept: ``C sum CE + |W|² / 2``, by L-BFGS."""
    weight = start.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [weight], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def loss() -> Tensor:
        solver.zero_grad()
        fit = cross_entropy(inputs @ weight.T, labels)
        # divided by C n, so that all strengths have gradients of one size
        value = fit + 0.5 * weight.square().sum() / (strength * len(labels))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach()


@torch.enable_grad()
def _fit_scale(logits: Tensor, labels: Tensor) -> Tensor:
    """The factor on logits under which labels are likeliest (one over a temperature)."""
    log_scale = logits.new_zeros(()).requires_grad_()
    solver = torch.optim.LBFGS([log_scale], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        # bounded: separable data would sharpen without end
        value = cross_entropy(log_scale.clamp(-5.0, 5.0).exp() * logits, labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return log_scale.detach().clamp(-5.0, 5.0).exp()
