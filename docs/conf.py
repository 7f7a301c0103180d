"""Configuration of the documentation build; nothing here reaches for the network."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "tether"
author = "The tether authors"
copyright = "The tether authors, Apache-2.0"
release = version = installed_version("tether")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "method_pages",
    "option_tables",
]
exclude_patterns = ["_build", "_ext"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("ScheduleLike", "LossLike", "OptimizerLike")}
toc_object_entries = False
highlight_language = "none"  # an indented block of a docstring is a formula, not code
python_use_unqualified_type_names = True

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_include_init_with_doc = False
napoleon_custom_sections = [
    "Formula",
    "Shape",
    "State",
    "Cost",
    "When it helps",
    "When it hurts",
]

html_theme = "alabaster"
html_theme_options = {
    "description": "Regularised, robust fine-tuning",
    "fixed_sidebar": True,
    "page_width": "1200px",
    "sidebar_width": "240px",
}
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sourcelink = False
html_copy_source = False
