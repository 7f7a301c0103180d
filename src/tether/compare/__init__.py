"""Compare methods fairly: equal tuning, paired seeds, intervals, costs."""

from typing import TYPE_CHECKING

from tether.lazy import lazy_names

if TYPE_CHECKING:
    from tether.compare.page import write_report as write_report
    from tether.compare.session import StudyResult as StudyResult
    from tether.compare.session import read_result as read_result
    from tether.compare.session import run_study as run_study
    from tether.compare.study import Study as Study
    from tether.compare.study import load_study as load_study
    from tether.compare.summary import Summary as Summary
    from tether.compare.summary import summarise as summarise
    from tether.compare.summary_words import verdict as verdict

__all__ = [
    "Study",
    "StudyResult",
    "Summary",
    "load_study",
    "read_result",
    "run_study",
    "summarise",
    "verdict",
    "write_report",
]

if not TYPE_CHECKING:  # statistics load without torch, and the command line without either
    _HOME = {
        "write_report": "page", "StudyResult": "session", "read_result": "session",
        "run_study": "session", "Study": "study", "load_study": "study", "Summary": "summary",
        "summarise": "summary", "verdict": "summary_words",
    }  # fmt: skip
    __getattr__ = lazy_names(__name__, {k: f"{__name__}.{v}" for k, v in _HOME.items()})
