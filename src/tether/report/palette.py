"""The colours of a report: one categorical palette, in a light and a dark version.

The ten hues were chosen so that every pair stays apart in OKLab for normal vision and under
simulated protanopia, deuteranopia and tritanopia, with a contrast of at least 3:1 (light) and
4.5:1 (dark) against the page; the tests measure it. Plots are drawn with the light values, which
become CSS variables, so that one drawing serves light mode, dark mode and paper.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Color:
    """One colour of the page: its CSS variable, its two values and the dash of its lines.

    Args:
        name: CSS variable without the leading dashes.
        light: value on a light page and on paper.
        dark: value on a dark page.
        dash: line style, one of `DASHES`; more than ten labels share hues, not dashes.
    """

    name: str
    light: str
    dark: str
    dash: str = "solid"

    @property
    def css(self) -> str:
        """The colour as a CSS value."""
        return f"var(--{self.name})"


# Neighbours in this order differ most, because most pages use only the first few.
HUES = (
    Color("hue-1", "#2067d9", "#1288f4"),
    Color("hue-2", "#ca3109", "#fe8b6f"),
    Color("hue-3", "#2f7741", "#9fe791"),
    Color("hue-4", "#9c4d8d", "#b260bc"),
    Color("hue-5", "#109cec", "#78e3ff"),
    Color("hue-6", "#c28b16", "#fdbc00"),
    Color("hue-7", "#5521bf", "#a3a6f2"),
    Color("hue-8", "#882602", "#c7641e"),
    Color("hue-9", "#58978d", "#3abfab"),
)
NEUTRAL = Color("neutral", "#4c4c4c", "#858585")
CATEGORICAL = (*HUES, NEUTRAL)

INK = Color("ink", "#1a1d21", "#eceef1")
MUTED = Color("muted", "#5b636e", "#a3acb8")
RULE = Color("rule", "#dde1e6", "#2f353e")
SURFACE = Color("surface", "#ffffff", "#14171c")
RAISED = Color("raised", "#f5f6f8", "#1d2128")

ALL = (*CATEGORICAL, INK, MUTED, RULE, SURFACE, RAISED)

# The pattern of dash and gap of each line style, in pixels, for the plots and their legends.
DASHES: dict[str, tuple[float, ...]] = {
    "solid": (),
    "dashed": (5.0, 3.0),
    "dotted": (1.2, 2.6),
    "dashdot": (7.0, 2.5, 1.5, 2.5),
}
_DASHES = tuple(DASHES)


def assign_colors(labels: Iterable[str], *, neutral: str | None = None) -> dict[str, Color]:
    """Give every label one colour, to be used in all figures of a page.

    Labels beyond the tenth repeat the hues with another dash.

    Args:
        labels: names of methods or classes, in the order in which they should appear.
        neutral: the label to draw in grey, usually the plain baseline.

    Example:
        >>> colors = assign_colors(["plain", "elr", "adarand"], neutral="plain")
        >>> [colors[label].name for label in ("plain", "elr", "adarand")]
        ['neutral', 'hue-1', 'hue-2']
    """
    names = list(dict.fromkeys(labels))
    colors = {}
    hues = HUES if neutral in names else CATEGORICAL
    for place, name in enumerate(name for name in names if name != neutral):
        hue, dash = hues[place % len(hues)], _DASHES[place // len(hues) % len(_DASHES)]
        colors[name] = Color(hue.name, hue.light, hue.dark, dash)
    if neutral in names:
        colors[str(neutral)] = NEUTRAL
    return {name: colors[name] for name in names}
