"""Who may talk to the server: this machine's browser, with the token, and nobody else."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost")
HEADER = b"x-tether-token"
COOKIE = "HttpOnly; SameSite=Strict; Path=/; Max-Age=604800"
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Lets requests through to an application that come from its own page.

    A page of another site that the same browser shows may send requests to this machine, too; it
    knows no token, its ``Origin`` is another, and where its name was made to point here, the
    ``Host`` gives it away.

    Args:
        app: the application.
        token: what the address that the command prints holds.
        cookie: name of the cookie that holds it from then on.
    """

    def __init__(self, app: Any, token: str, cookie: str) -> None:
        self.app, self.token, self.cookie = app, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        fresh = self._from_address(scope)
        why = self._refusal(headers, scope, fresh)

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = dict(SECURITY_HEADERS)
                if fresh and not why:
                    added["set-cookie"] = f"{self.cookie}={self.token}; {COOKIE}"
                own = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    *((k.encode(), v.encode()) for k, v in added.items() if k.encode() not in own),
                ]
            await send(message)

        if why:
            await _refuse(guarded, why)
        else:
            await self.app(scope, receive, guarded)

    def _from_address(self, scope: Scope) -> bool:
        if scope["method"] != "GET" or scope["path"] != "/":
            return False
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        return any(self._is_token(text) for text in asked.get("token", []))

    def _refusal(self, headers: dict[bytes, bytes], scope: Scope, fresh: bool) -> str:
        host = headers.get(b"host", b"").decode("latin-1")
        if host.partition(":")[0].lower() not in HOSTS:
            return "this address is not served under that name"
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() != f"http://{host}".lower():
            return "requests of other pages are not answered"
        # a link from elsewhere may open the page, with the token that it holds
        opens = fresh and headers.get(b"sec-fetch-mode") == b"navigate"
        own = headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin")
        if not own and not opens:
            return "requests of other pages are not answered"
        if not fresh and not self._known(headers):
            return "open the address that tether labels review has printed: it holds the token"
        if scope["method"] == "POST" and not headers.get(b"content-type", b"").startswith(
            b"application/json"
        ):
            return "decisions are sent as application/json"
        return ""

    def _known(self, headers: dict[bytes, bytes]) -> bool:
        if self._is_token(headers.get(HEADER, b"").decode("latin-1")):
            return True
        try:
            cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return False
        return self.cookie in cookies and self._is_token(cookies[self.cookie].value)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())


async def _refuse(send: Send, why: str) -> None:
    await send(
        {
            "type": "http.response.start", "status": 403,
            "headers": [(b"content-type", b"text/plain; charset=utf-8")],
        }
    )  # fmt: skip
    await send({"type": "http.response.body", "body": f"refused: {why}\n".encode()})
