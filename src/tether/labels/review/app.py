"""The application behind the page: suspects by number, pictures by number, decisions."""

from __future__ import annotations

import json
import threading
from typing import Any

from tether.errors import ConfigError
from tether.labels.journal import Journal
from tether.labels.review import page
from tether.labels.review.guard import Guard
from tether.labels.review.payload import details, overview, states, to_entry, without_stale
from tether.labels.review.samples import SIZES, UnreadableError
from tether.labels.review.suspects import Review
from tether.optional import require

_LARGEST_BODY = 1 << 20
_MOST = 200  # suspects or decisions of one request


class OtherListError(Exception):
    """The page shows suspects that are no longer the server's."""


class Desk:
    """A review, its journal, and the answers to what the page asks.

    Args:
        review: what there is to decide.
        journal: where decisions go.
    """

    def __init__(self, review: Review, journal: Journal) -> None:
        self.review, self.journal = review, journal
        self._lock = threading.Lock()
        self._overview = overview(review)

    def start(self) -> dict[str, Any]:
        """All suspects in short, and what was decided so far."""
        self.journal.refresh()
        return {**self._overview, "corrections": str(self.journal.path), **self.changes(-1)}

    def changes(self, since: int) -> dict[str, Any]:
        """What was decided since the journal had so many lines; all of it where that is unknown."""
        entries = self.journal.entries
        whole = not 0 <= since <= len(entries)
        names = [entry.id for entry in entries[0 if whole else since :]]
        changed = states(self.review, self.journal.state(), names)
        return {"changes": changed, "cursor": len(entries), "whole": whole}

    def decide(self, asked: Any) -> dict[str, Any]:
        """Write decisions; those that are written already change nothing.

        Raises:
            ConfigError: the request is not made as it should be.
            OtherListError: the page has another list of suspects.
            OSError: they cannot be written; then none of them was.
        """
        if not isinstance(asked, dict) or not isinstance(asked.get("items"), list):
            raise ConfigError("items is a list of decisions")
        items, since = asked["items"], asked.get("cursor")
        if asked.get("name", self._overview["name"]) != self._overview["name"]:
            raise OtherListError("the list of suspects is another one now: load the page anew")
        if len(items) > _MOST:
            raise ConfigError(f"a request holds at most {_MOST} decisions")
        entries = [to_entry(self.review, item) for item in items]
        with self._lock:
            self.journal.refresh()
            self.journal.add(without_stale(items, entries, self.journal))
            return self.changes(since if type(since) is int else -1)


def make_app(review: Review, journal: Journal, token: str, cookie: str) -> Any:
    """The ASGI application.

    Args:
        review: what there is to decide.
        journal: where decisions go.
        token: what a browser must know.
        cookie: name of the cookie that holds it.
    """
    applications = require("starlette.applications", "labels", "the review page")
    concurrency = require("starlette.concurrency", "labels")
    responses = require("starlette.responses", "labels")
    routing = require("starlette.routing", "labels")
    desk = Desk(review, journal)
    style, script, html = page.style(), page.script(), page.html()

    def answer(value: Any, status: int = 200) -> Any:
        body = json.dumps(value).encode()  # ASCII: any file name can be sent
        return responses.Response(body, status, media_type="application/json")

    def index(request: Any) -> Any:
        return responses.HTMLResponse(html)

    def styles(request: Any) -> Any:
        return responses.Response(style, media_type="text/css")

    def scripts(request: Any) -> Any:
        return responses.Response(script, media_type="text/javascript")

    def start(request: Any) -> Any:
        return answer(desk.start())

    def suspects(request: Any) -> Any:
        numbers = request.query_params.get("n", "").split(",")[:_MOST]
        wanted = [int(n) for n in numbers if n.isdecimal() and int(n) < len(review.suspects)]
        return answer([details(review, number) for number in wanted])

    def changes(request: Any) -> Any:
        since = request.query_params.get("since", "")
        journal.refresh()
        return answer(desk.changes(int(since) if since.isdecimal() else -1))

    def picture(request: Any) -> Any:
        number, size = request.path_params["number"], request.path_params["size"]
        if number >= len(review.samples) or size not in SIZES:
            return responses.PlainTextResponse("there is no such picture", 404)
        try:
            data, media_type = review.samples.picture(number, size)
        except UnreadableError as error:
            return responses.PlainTextResponse(str(error), 422)
        kept = {"cache-control": "private, max-age=3600"}
        return responses.Response(data, media_type=media_type, headers=kept)

    async def decide(request: Any) -> Any:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST_BODY:
                return answer({"error": "the request is too large"}, 413)
        try:
            asked = json.loads(body)
            return answer(await concurrency.run_in_threadpool(desk.decide, asked))
        except (ValueError, ConfigError) as error:
            return answer({"error": str(error)}, 400)
        except OtherListError as error:
            return answer({"error": str(error)}, 409)
        except OSError as error:
            return answer({"error": f"{journal.path}: {error.strerror}"}, 507)

    routes = [
        routing.Route("/", index),
        routing.Route("/style.css", styles),
        routing.Route("/app.js", scripts),
        routing.Route("/api/start", start),
        routing.Route("/api/suspects", suspects),
        routing.Route("/api/changes", changes),
        routing.Route("/api/decide", decide, methods=["POST"]),
        routing.Route("/picture/{size:int}/{number:int}", picture),
    ]
    return Guard(applications.Starlette(routes=routes), token, cookie)
