"""The server of the page: its token, its port, its end."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tether.errors import ConfigError
from tether.labels.journal import FILE_NAME, Journal
from tether.labels.review.app import make_app
from tether.labels.review.suspects import Review
from tether.optional import require

HOST, PORT = "127.0.0.1", 8765
_TRIED = 50
TOKEN_FILE = ".review-token"


def serve(
    review: Review, *, corrections: Path | None = None, port: int = PORT,
    ready: Callable[[str, Journal], None],
) -> Journal:  # fmt: skip
    """Serve the page until it is interrupted.

    Args:
        review: what there is to decide.
        corrections: the journal; by default ``RUN/labels/corrections.csv``.
        port: the first port that is tried; 0: any free one.
        ready: called with the address, once it can be opened.

    Returns:
        the journal, with all that was decided.

    Raises:
        ConfigError: the journal cannot be written, or no port is free.
    """
    uvicorn = require("uvicorn", "labels", "the review page")
    path = corrections or review.folder / FILE_NAME
    journal = Journal(path)
    token = lasting_token(path.parent)
    taken = listen(port)
    bound = taken.getsockname()[1]
    app = make_app(review, journal, token, f"tether_review_{bound}")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server: Any = uvicorn.Server(config)
    with taken:
        ready(f"http://{HOST}:{bound}/?token={token}", journal)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[taken])
    journal.refresh()
    return journal


def listen(port: int) -> socket.socket:
    """A socket on this port, or on the next one that is free.

    Raises:
        ConfigError: none is.
    """
    for number in range(port, min(port + _TRIED, 65536)) if port else (0,):
        taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name == "posix":  # a port of a server that has just ended is free; elsewhere it
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # would be shared
        try:
            taken.bind((HOST, number))
            taken.listen(128)
            return taken
        except OSError:
            taken.close()
    raise ConfigError(f"no port from {port} on is free; name another one with --port")


def lasting_token(folder: Path) -> str:
    """The token of this folder, readable by its owner alone.

    It outlives the server, so that a page that is still open finds the next one and sends what it
    could not send.
    """
    path = folder / TOKEN_FILE
    with contextlib.suppress(OSError):
        text = path.read_text(encoding="ascii", errors="replace").strip()
        private = os.name != "posix" or not path.stat().st_mode & 0o077
        if private and re.fullmatch(r"[A-Za-z0-9_-]{43}", text):
            return text
    token = secrets.token_urlsafe(32)
    with contextlib.suppress(OSError):  # else it lasts as long as the server
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(token + "\n")
    return token
