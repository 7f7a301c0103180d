"""All that is needed to run a study again, on the page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from tether.compare.summary import Summary
from tether.report import Page

MOST_ROWS = 200


def add_rerun(page: Page, summary: Summary, meta: Mapping[str, Any]) -> None:
    """The chosen settings, the resolved configuration, versions, machine and fingerprints.

    Args:
        page: gets the blocks.
        summary: the findings of the study.
        meta: what the study is.
    """
    page.add_section("Run it again")
    chosen = [
        [score.method, score.case, _settings(score.settings)]
        for score in summary.scores
        if score.settings
    ]
    if chosen:
        page.add_table(
            ["method", "case", "settings"],
            chosen[:MOST_ROWS],
            "The settings that were chosen on validation data.",
        )
    command = meta.get("command") or f"tether compare study.yaml -o {shlex.quote(summary.name)}"
    page.add_code(str(command), "The command:")
    if meta.get("config"):
        page.add_code(str(meta["config"]).rstrip("\n"), "study.yaml, with all defaults filled in:")
    prints = [
        [str(case), str(split), _text(value)]
        for case, splits in (meta.get("fingerprints") or {}).items()
        for split, value in (splits or {}).items()
    ]
    if prints:
        page.add_table(
            ["case", "split", "fingerprint"],
            prints[:MOST_ROWS],
            "Fingerprints of the data: other data, other numbers.",
        )
    facts = [
        [str(name), _text(value)]
        for part in ("versions", "machine")
        for name, value in (meta.get(part) or {}).items()
    ]
    if facts:
        page.add_table(["what", "value"], facts, "Versions and machine.")


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_text(value)}" for name, value in settings.items())


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
