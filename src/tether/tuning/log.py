"""``run.log``: what the libraries said, and the tracebacks that people are spared."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGGERS = ("tether", "transformers", "accelerate", "timm", "datasets", "py.warnings")


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Write log records and warnings to a file, in place of stderr; None: nowhere."""
    from transformers.utils import logging as theirs

    handler: logging.Handler = (
        logging.NullHandler() if path is None else logging.FileHandler(path, encoding="utf-8")
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(one.level, one.propagate, list(one.handlers)) for one in loggers]
    shown = warnings.showwarning
    for one in loggers:
        one.handlers = [handler]
        one.propagate = False
        one.setLevel(logging.INFO if one.name == "tether" else logging.WARNING)
    logging.captureWarnings(True)
    bars = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()  # type: ignore[no-untyped-call]  # one for each file saved
    try:
        yield
    finally:
        logging.captureWarnings(False)
        if bars:
            theirs.enable_progress_bar()  # type: ignore[no-untyped-call]
        warnings.showwarning = shown
        for one, (level, propagate, handlers) in zip(loggers, before, strict=True):
            one.setLevel(level)
            one.propagate, one.handlers = propagate, handlers
        handler.close()
