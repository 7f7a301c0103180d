"""Write results as one HTML file that needs nothing else: no script, no network, no folder.

`Page` collects sections, text, tables and figures and writes them atomically;
`tether.report.plots` turns plain numbers into figures; `assign_colors` gives every method one
colour for the whole page. Needs the extra `tether[cli]` (Jinja2 and matplotlib), imported only
when a page or a plot is made.
"""

from tether.report.blocks import Cell, Column, Fact, Key, Panel, Plot, Point
from tether.report.page import Page
from tether.report.palette import Color, assign_colors

__all__ = [
    "Cell",
    "Color",
    "Column",
    "Fact",
    "Key",
    "Page",
    "Panel",
    "Plot",
    "Point",
    "assign_colors",
]
