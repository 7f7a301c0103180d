"""CutMix: train on images with a box of another image pasted in."""

from __future__ import annotations

from tether.catalogue import register
from tether.methods.inputs.pair_mixing import PairMixing, check_alpha
from tether.schedule import ScheduleLike


@register(
    "cutmix",
    kind="inputs",
    paper="arXiv:1905.04899",
    cost="light",
    losses=("cross_entropy", "binary_cross_entropy"),
    neutral={"alpha": 0.0},
    example={"alpha": 1.0},
    stochastic=True,
    mixes=True,
    search_space={"alpha": ("log", 0.05, 2.0)},
)
class CutMix(PairMixing):
    """Paste a box of another image into every image, and mix their targets by area.

    Helps where objects must be told by their parts and larger networks overfit. Hurts where the
    class lies in a small place that the box may hide, and in short fine-tuning (let ``alpha``
    fall to 0 towards the end: ``"step(0.2, 0, 0.8)"``).

    With one box a batch, its centre any pixel, and each image paired with another::

        lam ~ Beta(alpha, alpha),  r = sqrt(1 - lam)
        box of int(H r) x int(W r) pixels, clipped to the image
        x_i <- x_pi(i) inside the box, x_i outside
        lam <- 1 - pixels in the box / (H W)
        target_i = lam y_i + (1 - lam) y_pi(i)

    Rows with the label -100, and their partners, stay whole. In a bare loop iterate
    ``reg.batches(loader)``; the labels of a batch stay as they are. Methods that remember samples
    are refused, but for :class:`~tether.EarlyLearningRegularization`, which asks the network about
    the unmixed images.

    Args:
        alpha: of the Beta distribution, >= 0, schedulable; 0 mixes nothing (default 0.2 for
            fine-tuning; paper 1, from scratch).

    Shape:
        Images ``[N, C, H, W]``; class indices ``[N]`` or probabilities ``[N, K]``, 0/1 matrices
        ``[N, K]``.

    State:
        None.

    Cost:
        One pass over the inputs.

    Raises:
        ValueError: ``alpha`` below 0.
        TetherError: the inputs are no images; several losses of one batch.

    References:
        Sangdoo Yun, Dongyoon Han, Seong Joon Oh, Sanghyuk Chun, Junsuk Choe, Youngjoon Yoo,
        "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
        ICCV 2019, arXiv:1905.04899.

    Example:
        >>> CutMix(alpha=1)
        CutMix(alpha=1)
    """

    mix = "cutmix"

    def __init__(self, alpha: ScheduleLike = 0.2) -> None:
        check_alpha(alpha)
        self.alpha = alpha
