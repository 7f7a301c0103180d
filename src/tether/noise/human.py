"""Human label noise: CIFAR-10N and CIFAR-100N from their released files."""

from __future__ import annotations

import _codecs
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tether.noise.base import LabelLike, NoisyLabels, as_labels, check_lengths, noisy_labels

# kind -> (number of classes, keys of the noisy labels, keys of the clean labels); the first key
# is that of the released .pt files, the others those of arrays saved under shorter names
_CLEAN10 = ("clean_label", "train_clean", "clean")
_KINDS: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "aggregate": (10, ("aggre_label", "train_aggre", "aggre"), _CLEAN10),
    "random1": (10, ("random_label1", "train_random1", "random1"), _CLEAN10),
    "random2": (10, ("random_label2", "train_random2", "random2"), _CLEAN10),
    "random3": (10, ("random_label3", "train_random3", "random3"), _CLEAN10),
    "worst": (10, ("worse_label", "train_worst", "worst"), _CLEAN10),
    "fine": (100, ("noisy_label", "train_noisy", "noisy"), _CLEAN10),
    "coarse": (20, ("noisy_coarse_label",), ("clean_coarse_label",)),
}
_ALIASES = {"aggre": "aggregate", "worse": "worst", "noisy": "fine", "noisy100": "fine"}


def load_cifar_n(
    kind: str, path: str | Path, *, clean_labels: LabelLike | None = None
) -> NoisyLabels:
    """Loads the human labels of CIFAR-10N or CIFAR-100N.

    Real mistakes of paid annotators: they depend on the image, and are harder than synthetic
    noise of the same transition matrix (build that twin with ``matrix_noise(noisy.true,
    noisy.transition)``). Wrong labels over the whole training set: aggregate 9.01 %, random1
    17.23 %, random2 18.12 %, random3 17.64 %, worst 40.21 %; CIFAR-100N fine 40.20 %, coarse
    26.40 %. The order is that of the Python version of CIFAR; TFDS orders the images otherwise.

    Args:
        kind: ``"aggregate"``, ``"random1"``, ``"random2"``, ``"random3"``, ``"worst"`` for
            CIFAR-10N; ``"fine"``, ``"coarse"`` for CIFAR-100N.
        path: the released ``CIFAR-10_human.pt`` or ``CIFAR-100_human.pt``, or an ``.npz`` with
            those keys (or ``train_clean``, ``train_worst`` and so on). Nothing in the file is
            executed.
        clean_labels: labels of your copy of the data set. They are compared with the clean
            labels of the file; pass them, since a wrong order spoils the experiment silently.

    Shape:
        The result's ``labels`` n (50000 in the released files), ``transition`` K x K.

    Cost:
        Reading the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown kind, a file without the labels asked for, clean labels that do not
            agree with ``clean_labels``.

    References:
        Jiaheng Wei, Zhaowei Zhu, Hao Cheng, Tongliang Liu, Gang Niu, Yang Liu, "Learning with
        Noisy Labels Revisited: A Study Using Real-World Human Annotations", 2022,
        arXiv:2110.12088.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = Path(folder.name) / "labels.npz"
        >>> np.savez(file, clean_label=np.array([0, 1, 9, 9]), worse_label=np.array([0, 1, 1, 9]))
        >>> load_cifar_n("worst", file).rate
        0.25
        >>> folder.cleanup()
    """
    kind = _ALIASES.get(kind, kind)
    if kind not in _KINDS:
        raise ValueError(f"kind {kind!r} is unknown: use one of {', '.join(_KINDS)}")
    num_classes, noisy_keys, clean_keys = _KINDS[kind]
    arrays = _read(Path(path))
    given = as_labels(_find(arrays, noisy_keys, path), num_classes=num_classes)
    true = as_labels(_find(arrays, clean_keys, path), name="clean labels", num_classes=num_classes)
    check_lengths(labels=given, true=true)
    if clean_labels is not None:
        mine = as_labels(clean_labels, name="clean_labels", num_classes=num_classes)
        check_lengths(clean_labels=mine, file=true)
        differing = int((mine != true).sum())
        if differing:
            raise ValueError(
                f"{differing} of {len(true)} clean labels of {path} differ from clean_labels: the "
                "data set is in another order (the files follow the Python version of CIFAR)"
            )
    return noisy_labels(true, given, num_classes, f"cifar_n_{kind}", None)


def _find(arrays: Mapping[str, Any], keys: tuple[str, ...], path: str | Path) -> npt.NDArray[Any]:
    for key in keys:
        if key in arrays:
            return np.asarray(arrays[key])
    raise ValueError(f"{path} has no {keys[0]!r}; it holds {', '.join(map(str, arrays))}")


def _read(path: Path) -> Mapping[str, Any]:
    """The arrays of an .npz or .pt file, without running any code from it."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no label file {path}")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            # labels only: a file may hold the images as well
            wanted = {key for _, noisy, clean in _KINDS.values() for key in noisy + clean}
            return {key: file[key] for key in file.files if key in wanted}
    with torch.serialization.safe_globals(_array_globals()):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} must hold a mapping of label arrays, not {type(content).__name__}"
        )
    return content


def _array_globals() -> list[Any]:
    """What a pickled NumPy array of numbers is made of, under its old and its new names."""
    rebuild: Any = np.empty(0).__reduce__()[0]
    number_types = [type(np.dtype(code)) for code in ("i1", "u1", "i2", "i4", "i8")]
    return [
        (rebuild, "numpy.core.multiarray._reconstruct"),
        (rebuild, "numpy._core.multiarray._reconstruct"),
        (_codecs.encode, "_codecs.encode"),
        np.ndarray,
        np.dtype,
        *number_types,
    ]
