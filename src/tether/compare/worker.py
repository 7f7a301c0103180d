"""The process of a worker: ``python -m tether.compare.worker``; see :mod:`tether.compare.pool`."""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import sys
import threading
from typing import Any


def main() -> int:
    """Do jobs until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    jobs: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()

    from tether.compare.run import run_job
    from tether.errors import Interrupted

    _import_early()
    while (line := jobs.get()) is not None:
        job = json.loads(line)
        try:
            answer: dict[str, Any] = {"id": job["id"], "row": run_job(job)}
        except Interrupted as stop:
            answer = {"id": job["id"], "interrupted": stop.signum}
        except KeyboardInterrupt:
            answer = {"id": job["id"], "interrupted": int(signal.SIGINT)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def _read(jobs: queue.Queue[str | None]) -> None:
    """Pass the lines of stdin on; at its end the one who gave us work is gone, and so are we."""
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


def _import_early() -> None:
    """What every run needs, imported while the first job is being read.

    What is imported stays: the collections at the end of every run need not look at it.
    """
    import transformers  # noqa: F401

    import tether.tuning.job  # noqa: F401

    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
