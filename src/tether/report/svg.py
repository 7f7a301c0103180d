"""Draw with matplotlib and tidy the result into a small SVG that follows the page's colours."""

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tether.report.extras import require
from tether.report.palette import ALL, INK, MUTED, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Mathematical text is off: a "$" in a label is a dollar sign, and no text becomes a path.
_STYLE = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so the layout is the same everywhere
    "text.parse_math": False,
    "text.color": INK.light,
    "axes.labelcolor": MUTED.light,
    "axes.edgecolor": RULE.light,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.unicode_minus": True,
    "grid.color": RULE.light,
    "grid.linewidth": 0.8,
    "xtick.color": RULE.light,
    "ytick.color": RULE.light,
    "xtick.labelcolor": MUTED.light,
    "ytick.labelcolor": MUTED.light,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
    "xtick.minor.size": 0.0,
    "lines.linewidth": 1.8,
    "lines.scale_dashes": False,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
}
HALO = "halo"  # the gid of a text that is drawn over data and needs an outline

_VARIABLES = {color.light: f"var(--{color.name},{color.light})" for color in ALL}
_NUMBER = re.compile(r"-?\d*\.\d+(?:[eE][-+]?\d+)?")
_GEOMETRY = frozenset({"d", "x", "y", "width", "height", "transform", "points", "viewBox"})
_REFERENCE = re.compile(r"#([^\s)]+)")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def printable(text: object) -> str:
    """Text without the characters that neither XML nor UTF-8 can hold."""
    return _UNPRINTABLE.sub("�", str(text))


def render(
    width: float, height: float, paint: "Callable[[Axes], None]", *, font_size: float = 11.0
) -> str:
    """Run `paint` on fresh axes and return the drawing as a tidy SVG string.

    The user's matplotlib settings have no influence, nothing global is left behind, and the same
    drawing gives the same bytes.

    Args:
        width: width of the drawing in CSS pixels; it scales with the page.
        height: height in CSS pixels.
        paint: draws on the axes it is given.
        font_size: base size of the text in CSS pixels.
    """
    matplotlib = require("matplotlib")
    figure_class = require("matplotlib.figure").Figure
    canvas_class = require("matplotlib.backends.backend_svg").FigureCanvasSVG
    style = require("matplotlib.style")
    fonts = {
        "font.size": font_size,
        "axes.labelsize": font_size,
        "xtick.labelsize": font_size,
        "ytick.labelsize": font_size,
    }
    target = io.StringIO()
    with (
        warnings.catch_warnings(),
        style.context(["default", _STYLE | fonts]),
        matplotlib.rc_context({"svg.hashsalt": "tether"}),
    ):
        # The browser, not matplotlib, supplies the glyphs.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = figure_class(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        canvas_class(figure)
        figure.get_layout_engine().set(w_pad=3 / 72, h_pad=3 / 72)
        paint(figure.subplots())
        figure.savefig(
            target, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return tidy(target.getvalue())


def tidy(svg: str) -> str:
    """Shrink matplotlib's SVG and make it fit to live inside an HTML page.

    Colours of the palette become CSS variables, fonts are the page's, numbers are rounded to a
    tenth of a pixel, the style sheet (which would apply to the whole page), metadata and ids
    that nothing refers to go, and empty groups are dissolved.
    """
    root = ElementTree.fromstring(svg)
    used = _references(root)
    names = {old: f"i{place}" for place, old in enumerate(used)}
    tidied = _tidy_element(root, names)
    view_box = tidied.get("viewBox", "")
    tidied.attrib = {
        "viewBox": view_box,
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    return ElementTree.tostring(tidied, encoding="unicode")


def embed(svg: str, prefix: str, label: str) -> str:
    """Name a drawing for readers who cannot see it, and make its ids unique within a page."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, prefix + value)
            elif key in ("href", "clip-path"):
                element.set(key, value.replace("#", "#" + prefix, 1))
    root.set("role", "img")
    root.set("aria-label", printable(label))
    return ElementTree.tostring(root, encoding="unicode")


def _references(root: ElementTree.Element) -> list[str]:
    found: dict[str, None] = {}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href") or key == "clip-path":
                found.update(dict.fromkeys(_REFERENCE.findall(value)))
    return list(found)


def _tidy_element(element: ElementTree.Element, names: dict[str, str]) -> ElementTree.Element:
    result = ElementTree.Element(_local(element.tag), _tidy_attributes(element, names))
    result.text = element.text if result.tag == "text" else None
    for child in element:
        if _local(child.tag) in ("metadata", "style"):
            continue
        tidied = _tidy_element(child, names)
        if tidied.tag in ("g", "defs") and not len(tidied):
            continue
        if tidied.tag == "g" and not tidied.attrib:
            result.extend(tidied)
        elif _visible(tidied):
            result.append(tidied)
    return result


def _tidy_attributes(element: ElementTree.Element, names: dict[str, str]) -> dict[str, str]:
    result: dict[str, str] = {}
    for key, value in ((_local(key), value) for key, value in element.attrib.items()):
        if key == "id":
            if value in names:
                result["id"] = names[value]
            elif value == HALO:
                result["class"] = HALO
        elif key in ("href", "clip-path"):
            result[key] = _REFERENCE.sub(lambda match: "#" + names[match[1]], value)
        elif key == "style":
            result[key] = _tidy_style(value)
        elif key == "transform" and value.startswith("rotate(-0 "):
            continue
        elif key in _GEOMETRY:
            rounded = _NUMBER.sub(_round, value)
            result[key] = _tidy_path(rounded) if key == "d" else rounded
        else:
            result[key] = value
    return result


def _visible(element: ElementTree.Element) -> bool:
    return element.tag != "path" or "id" in element.attrib or element.get("style") != "fill:none"


def _tidy_style(style: str) -> str:
    kept = {}
    for declaration in filter(None, (part.strip() for part in style.split(";"))):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":  # older matplotlib writes the shorthand
            size = re.search(r"[\d.]+px", value)
            kept["font-size"] = size.group() if size else "11px"
            if re.search(r"\b(?:bold|[6-9]00)\b", value):
                kept["font-weight"] = "700"
        elif key != "font-family":
            kept[key] = _VARIABLES.get(value, _NUMBER.sub(_round_fine, value))
    return ";".join(f"{key}:{value}" for key, value in kept.items())


def _tidy_path(path: str) -> str:
    path = " ".join(path.split())
    # A point drawn as a line of no length: its round cap is the dot.
    path = re.sub(r"M (\S+ \S+) L \1(?= |$)", r"M \1 h 0", path)
    path = re.sub(
        r"(?<=L )(\S+ \S+)((?: L \S+ \S+)+)", lambda m: m[1] + m[2].replace(" L", ""), path
    )
    return re.sub(r" ?([A-Za-z]) ?", r"\1", path)


def _round(match: re.Match[str]) -> str:
    return _shortest(f"{float(match.group()):.1f}")


def _round_fine(match: re.Match[str]) -> str:
    return _shortest(f"{float(match.group()):.2f}")


def _shortest(number: str) -> str:
    short = number.rstrip("0").rstrip(".")
    return "0" if short in ("-0", "") else short


def _local(name: str) -> str:
    return name.rpartition("}")[2]
