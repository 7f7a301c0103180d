"""The palette stays legible for everyone: measured, not promised."""

import itertools

import numpy as np
import pytest

from tether.report.palette import ALL, CATEGORICAL, INK, MUTED, NEUTRAL, SURFACE, assign_colors

# Machado, Oliveira and Fernandes (2009), full severity, for linear RGB; and the distance that
# the closest pair must keep in OKLab.
VISION = {
    "normal": (np.eye(3), 0.12),
    "protanopia": (
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        0.08,
    ),
    "deuteranopia": (
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        0.08,
    ),
    "tritanopia": (
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
        0.065,
    ),
}
TO_LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def linear(hex_color):
    value = np.array([int(hex_color[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def oklab(rgb):
    return np.array(TO_LAB) @ np.cbrt(np.array(TO_LMS) @ np.clip(rgb, 0, 1))


def contrast(one, other):
    high, low = sorted(
        (float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True
    )
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_every_pair_stays_apart(mode, vision):
    matrix, least = VISION[vision]
    seen = [oklab(np.array(matrix) @ linear(getattr(color, mode))) for color in CATEGORICAL]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= least


@pytest.mark.parametrize(("mode", "least"), [("light", 2.95), ("dark", 4.5)])
def test_marks_stand_out_from_the_page(mode, least):
    page = getattr(SURFACE, mode)
    assert min(contrast(getattr(color, mode), page) for color in CATEGORICAL) >= least
    assert contrast(getattr(MUTED, mode), page) >= 4.5
    assert contrast(getattr(INK, mode), page) >= 7


def test_light_values_identify_a_colour():
    assert len({color.light for color in ALL}) == len(ALL) == len({color.name for color in ALL})


def test_assignment_is_stable_and_never_ambiguous():
    labels = [f"method {place}" for place in range(25)]
    colors = assign_colors(labels)
    assert list(colors) == labels
    assert len({(color.name, color.dash) for color in colors.values()}) == 25
    assert assign_colors(labels[:10]) == {label: colors[label] for label in labels[:10]}


def test_the_baseline_is_grey_wherever_it_stands():
    colors = assign_colors(["a", "plain", "b"], neutral="plain")
    assert list(colors) == ["a", "plain", "b"]
    assert colors["plain"] == NEUTRAL
    assert len({color.name for color in colors.values()}) == 3
    assert NEUTRAL not in assign_colors(["a", "b"], neutral="plain").values()
