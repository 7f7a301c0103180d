"""Mixup: train on blends of two samples and of their targets."""

from __future__ import annotations

from tether.catalogue import register
from tether.methods.inputs.pair_mixing import PairMixing, check_alpha
from tether.schedule import ScheduleLike


@register(
    "mixup",
    kind="inputs",
    paper="arXiv:1710.09412",
    cost="light",
    losses=("cross_entropy", "binary_cross_entropy", "mse", "l1"),
    neutral={"alpha": 0.0},
    stochastic=True,
    mixes=True,
    search_space={"alpha": ("log", 0.05, 2.0)},
)
class Mixup(PairMixing):
    """Blend every sample with another of its batch, and their targets in the same share.

    Helps calibration, small data, and against wrong labels, which cannot be memorised as no
    sample comes twice. Hurts fine-grained classes in a short fine-tuning (let ``alpha`` fall to
    0 towards the end: ``"step(0.2, 0, 0.8)"``); with a large alpha the network underfits and
    becomes too unsure.

    With one ratio a batch, and a random permutation pi of its rows::

        lam ~ Beta(alpha, alpha)
        x_i <- lam x_i + (1 - lam) x_pi(i)
        target_i = lam y_i + (1 - lam) y_pi(i)

    Every tensor of numbers is blended. Words are blended behind the model's embedding layer, where
    padding counts as zero and is attended to as far as the longer of the two texts goes; a model
    that reads the last word of a text takes that of the larger share. Rows with the label -100,
    and their partners, stay whole. In a bare loop iterate ``reg.batches(loader)``; the labels of a
    batch stay those of the larger share, so that accuracies in training mean little. Methods that
    remember samples are refused, but for :class:`~tether.EarlyLearningRegularization`, which asks
    the network about the unmixed inputs.

    Args:
        alpha: of the Beta distribution, >= 0, schedulable; 0 mixes nothing (default 0.2; paper:
            0.2 to 0.4 on ImageNet, 1 on CIFAR-10, 8 to 32 against wrong labels).

    Shape:
        Inputs ``[N, ...]``; class indices ``[N]`` or probabilities ``[N, K]``, 0/1 matrices
        ``[N, K]``, numbers ``[N]`` or ``[N, D]``.

    State:
        None.

    Cost:
        One pass over the inputs.

    Raises:
        ValueError: ``alpha`` below 0.
        TetherError: nothing in the batch can be blended; several losses of one batch.

    References:
        Hongyi Zhang, Moustapha Cisse, Yann N. Dauphin, David Lopez-Paz, "mixup: Beyond Empirical
        Risk Minimization", ICLR 2018, arXiv:1710.09412.

    Example:
        >>> Mixup(alpha=1)
        Mixup(alpha=1)
    """

    def __init__(self, alpha: ScheduleLike = 0.2) -> None:
        check_alpha(alpha)
        self.alpha = alpha
