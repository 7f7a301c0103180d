"""Noise between confusable classes: a class is taken for one particular other class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from tether.noise.base import (
    LabelLike,
    NoisyLabels,
    as_labels_and_classes,
    check_rate,
    choose,
    floor_share,
    make_generator,
    noisy_labels,
    pick,
    require_classes,
    uniform,
    whole_counts,
)

FlipMapping = Mapping[int, int] | Sequence[int] | Literal["cifar10", "cifar100"]

#: CIFAR-10: truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.
CIFAR10_FLIPS: dict[int, int] = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}

#: The twenty superclasses of CIFAR-100 in their order, each with its five fine classes.
CIFAR100_SUPERCLASSES: dict[str, tuple[str, ...]] = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}


def cifar100_superclass_labels() -> list[int]:
    """Superclass index of each of the 100 fine classes, whose indices are alphabetical.

    Example:
        >>> cifar100_superclass_labels()[:5]
        [4, 1, 14, 8, 0]
    """
    owner = {
        fine: coarse
        for coarse, members in enumerate(CIFAR100_SUPERCLASSES.values())
        for fine in members
    }
    return [owner[fine] for fine in sorted(owner)]


def block_mapping(blocks: Sequence[int]) -> dict[int, int]:
    """Sends every class to the next one of its block, the last to the first.

    Args:
        blocks: block index of each class. A block of one class maps to itself.

    Example:
        >>> block_mapping([0, 1, 0, 1, 0])
        {0: 2, 2: 4, 4: 0, 1: 3, 3: 1}
    """
    members: dict[int, list[int]] = {}
    for label, block in enumerate(blocks):
        members.setdefault(block, []).append(label)
    return {
        label: group[(place + 1) % len(group)]
        for group in members.values()
        for place, label in enumerate(group)
    }


def pair_noise(
    labels: LabelLike,
    rate: float,
    *,
    num_classes: int | None = None,
    exact: bool = True,
    stratified: bool = False,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> NoisyLabels:
    """Takes a share of every class for the next class, cyclically.

    Harder than symmetric noise of the same rate, since all errors of a class agree. From a rate
    of 0.5 on the wrong class is the majority and nothing can be learnt from the labels alone.

    ``T[i, i] = 1 - r``, ``T[i, (i + 1) mod K] = r``.

    Args:
        labels: true class indices; never modified.
        rate: share of wrong labels, in [0, 1]. Usual: 0.1 to 0.4.
        num_classes: K; by default the largest label plus one.
        exact: corrupt exactly ``floor(r n)`` samples. False corrupts each with probability r.
        stratified: with ``exact``, spread that number over the classes by their size.
        generator: a CPU generator to draw from; replaces ``seed``.
        seed: seed of a generator of its own.

    Shape:
        ``labels``: n class indices; the result's ``labels`` alike, ``transition`` K x K.

    Cost:
        O(n log n), once.

    Raises:
        ValueError: rate outside [0, 1], labels that are not class indices below ``num_classes``,
            fewer than two classes, ``stratified`` without ``exact``.

    References:
        Jiaheng Wei, Zhaowei Zhu, Hao Cheng, Tongliang Liu, Gang Niu, Yang Liu, "Learning with
        Noisy Labels Revisited", 2022, arXiv:2110.12088.

    Example:
        >>> pair_noise([0, 1, 2, 3], 1.0).labels.tolist()
        [1, 2, 3, 0]
    """
    rate = check_rate(rate)
    true, k = as_labels_and_classes(labels, num_classes)
    require_classes(k, "pair noise")
    rng, seed_used = make_generator(generator, seed)
    picked = pick(true, rate, exact=exact, stratified=stratified, generator=rng)
    return noisy_labels(true, torch.where(picked, (true + 1) % k, true), k, "pair", seed_used)


def asymmetric_noise(
    labels: LabelLike,
    mapping: FlipMapping,
    rate: float,
    *,
    num_classes: int | None = None,
    blocks: Literal["superclass", "index"] = "superclass",
    legacy: bool = False,
    exact: bool = True,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> NoisyLabels:
    """Takes a share of chosen classes for one particular, similar class each.

    Looks like the mistakes people make. Classes outside the mapping stay clean, so the overall
    rate is lower than the one asked for: half of it for ``"cifar10"``, where five of ten classes
    are affected.

    ``T[i, i] = 1 - r``, ``T[i, mapping(i)] = r`` for the classes of the mapping; the identity
    elsewhere. Original labels are looked up, so that a sample flips at most once.

    Args:
        labels: true class indices; never modified.
        mapping: a dict from class to wrong class; or a list of K wrong classes (its own index:
            stays clean); or ``"cifar10"`` (truck to automobile, bird to airplane, deer to horse,
            cat to dog and back); or ``"cifar100"`` (every fine class to the next of its block).
        rate: share of each mapped class, in [0, 1]. Usual: 0.1 to 0.4.
        num_classes: K; by default what the labels and the mapping need.
        blocks: for ``"cifar100"``, what a block is: the real ``"superclass"``, or twenty runs of
            five consecutive indices (``"index"``), which is what released code does.
        legacy: process classes in ascending order and look up the labels as changed so far, as
            released code does for CIFAR-10. A cat that became a dog may then turn back: the
            overall rate at r = 0.4 is 0.184 instead of 0.2.
        exact: corrupt a fixed number of each class, ``r n_i`` rounded so that the total is the
            floor of their sum (``legacy``: ``r n_i`` rounded up). False: each with probability r.
        generator: a CPU generator to draw from; replaces ``seed``.
        seed: seed of a generator of its own.

    Shape:
        ``labels``: n class indices; the result's ``labels`` alike, ``transition`` K x K.

    Cost:
        O(n log n), once.

    Raises:
        ValueError: rate outside [0, 1], labels or mapping out of range, an unknown mapping,
            ``legacy`` with ``"cifar100"`` or with ``exact=False``.

    References:
        Sheng Liu, Jonathan Niles-Weed, Narges Razavian, Carlos Fernandez-Granda, "Early-Learning
        Regularization Prevents Memorization of Noisy Labels", 2020, arXiv:2007.00151.

    Example:
        >>> noisy = asymmetric_noise([0, 1, 2] * 10, {0: 2}, 0.3)
        >>> noisy.transition[0].tolist(), noisy.rate
        ([0.7, 0.0, 0.3], 0.1)
    """
    rate = check_rate(rate)
    if blocks not in ("superclass", "index"):
        raise ValueError(f"blocks must be 'superclass' or 'index', not {blocks!r}")
    if legacy and (mapping == "cifar100" or not exact):
        raise ValueError(
            "legacy=True is the exact, sequential protocol of CIFAR-10; "
            "for the published CIFAR-100 one use blocks='index'"
        )
    flips, needed = _as_flips(mapping, blocks)
    true, k = as_labels_and_classes(labels, num_classes)
    k = max(k, needed) if num_classes is None else k
    target = _as_targets(flips, k)
    rng, seed_used = make_generator(generator, seed)
    if legacy:
        return noisy_labels(
            true, _sequential(true, target, rate, rng), k, "asymmetric_legacy", seed_used
        )
    movable = target != torch.arange(k)
    if exact:
        sizes = torch.bincount(true, minlength=k).to(torch.float64) * movable
        picked = choose(true, whole_counts(sizes * rate), rng)
    else:
        picked = (uniform(len(true), generator=rng) < rate) & movable[true]
    return noisy_labels(true, torch.where(picked, target[true], true), k, "asymmetric", seed_used)


def _as_flips(mapping: FlipMapping, blocks: str) -> tuple[dict[int, int], int]:
    """The mapping as a dict, and the number of classes it speaks of."""
    if isinstance(mapping, str):
        if mapping == "cifar10":
            return CIFAR10_FLIPS, 10
        if mapping == "cifar100":
            owners = cifar100_superclass_labels()
            return block_mapping(
                owners if blocks == "superclass" else [i // 5 for i in range(100)]
            ), 100
        raise ValueError(f"mapping {mapping!r} is unknown: use 'cifar10', 'cifar100' or a dict")
    flips = mapping if isinstance(mapping, Mapping) else dict(enumerate(mapping))
    try:
        whole = {int(i): int(j) for i, j in flips.items() if i == int(i) and j == int(j)}
    except (TypeError, ValueError):
        whole = {}
    if len(whole) != len(flips):
        raise ValueError("mapping must send class indices to class indices")
    if not whole:
        raise ValueError("mapping is empty: no class would be corrupted")
    return whole, max(*whole.keys(), *whole.values()) + 1


def _as_targets(flips: dict[int, int], num_classes: int) -> Tensor:
    """Wrong class of every class; a class that is not mapped has itself."""
    target = torch.arange(num_classes)
    for i, j in flips.items():
        if not (0 <= i < num_classes and 0 <= j < num_classes):
            raise ValueError(f"mapping sends {i} to {j}, but num_classes is {num_classes}")
        target[i] = j
    return target


def _sequential(true: Tensor, target: Tensor, rate: float, rng: torch.Generator) -> Tensor:
    """Flips class after class among the CURRENT labels, rounding each count up."""
    given = true.clone()
    for i, j in enumerate(target.tolist()):
        rows = (given == i).nonzero()[:, 0]
        order = torch.argsort(uniform(len(rows), generator=rng), stable=True)
        count = len(rows) - floor_share(1.0 - rate, float(len(rows)))
        given[rows[order[:count]]] = j
    return given
