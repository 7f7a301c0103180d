"""The most memory that a run held."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """Watches from its making on: the accelerator's memory where one is used, else the process's.

    A worker does many runs: where the system lets us, the process's peak starts anew with each;
    elsewhere it is that of all its runs.
    """

    def __init__(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")

    def mib(self) -> float:
        """The peak so far, in MiB."""
        import torch

        if torch.cuda.is_available():
            held = torch.cuda.max_memory_allocated() / 2**20
            if held > 1:
                return round(held, 1)
        with contextlib.suppress(OSError):
            found = re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())
            if found:
                return round(int(found[1]) / 1024, 1)
        return _by_resource()


def _by_resource() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
