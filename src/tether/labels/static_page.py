"""The review page as a single HTML file, for where no server can run."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tether.errors import ConfigError
from tether.files import write_text
from tether.labels.journal import COLUMNS
from tether.labels.review import page
from tether.labels.review.payload import details, overview
from tether.labels.review.samples import SMALL, UnreadableError
from tether.labels.review.suspects import Review

FILE_NAME = "review.html"
MOST_SUSPECTS = 500
_LINKS = (
    '<link rel="stylesheet" href="/style.css">\n',
    '<script src="/app.js" defer></script>\n',
)


def write_static_page(
    review: Review, output: Path | None = None, *, limit: int = MOST_SUSPECTS
) -> Path:
    """Write one HTML file with the suspects and small pictures, which downloads its decisions.

    It keeps decisions in the browser's storage until they are downloaded as ``corrections.csv``.

    Args:
        review: what there is to decide.
        output: the file; by default ``RUN/labels/review.html``.
        limit: how many suspects it holds, from the most suspicious on; at least 1.

    Returns:
        the file, which is written whole or not at all.

    Raises:
        ConfigError: it cannot be written, or ``limit`` is less than 1.
    """
    if limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    target = output or review.folder / FILE_NAME
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; name a file, for instance {target / FILE_NAME}")
    text = static_html(review, limit=limit)
    try:
        write_text(target, text)
    except OSError as error:
        raise ConfigError(
            f"{target} cannot be written: {error.strerror}; name another file with --output"
        ) from None
    return target


def static_html(review: Review, *, limit: int = MOST_SUSPECTS) -> str:
    """The text of the file."""
    left = len(review.suspects) - limit
    shown = replace(review, suspects=review.suspects[:limit])
    if left > 0:
        note = f"this file holds the first {limit} suspects; {left} more are in the list"
        shown = replace(shown, warnings=[*review.warnings, note])
    data = {**overview(shown), **_contents(shown), "columns": COLUMNS}
    style, script = page.style(), page.script()
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    html = page.html()
    for link in _LINKS:
        html = html.replace(link, "")
    head = f'<meta http-equiv="content-security-policy" content="{policy}">\n'
    html = html.replace("<head>\n", f"<head>\n{head}", 1)
    html = html.replace("</head>", f"<style>{style}</style>\n</head>", 1)
    # No sign of a name or text can end the element: "<" is written as an escape.
    inside = json.dumps(data).replace("<", "\\u003c")
    block = f'<script type="application/json" id="data">{inside}</script>\n'
    return html.replace("</body>", f"{block}<script>{script}</script>\n</body>", 1)


def _contents(review: Review) -> dict[str, Any]:
    every = [details(review, number) for number in range(len(review.suspects))]
    pictures: dict[int, str] = {}
    problems: dict[int, str] = {}
    if review.samples.kind == "image":
        around = [s for d in every for side in d["neighbours"].values() for s in side]
        for sample in {each["sample"] for each in (*every, *around)}:
            try:
                image, media_type = review.samples.picture(sample, SMALL)
            except UnreadableError as error:
                problems[sample] = str(error)
            else:
                text = base64.b64encode(image).decode()
                pictures[sample] = f"data:{media_type};base64,{text}"
    return {"details": every, "pictures": pictures, "problems": problems}


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
