"""What every request to `xmodal demo` goes through: no addresses in place of files, no endless bodies, no page from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

UPLOAD = 25 * 1024 * 1024  # bytes of one file that is handed in
CALL = 1024 * 1024  # bytes of one call, which names files and does not hold them
# What a browser may load or send to: this server alone.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """ASGI middleware.

    gradio fetches a file that a caller names by an address: this server asks the network for nothing, so such calls are refused.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        refusal, receive = await _checked(scope, receive)
        if refusal is None:
            await self.app(scope, receive, answer)
            return
        status, sentence = refusal
        await answer({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
        await answer({"type": "http.response.body", "body": json.dumps({"detail": sentence}).encode()})


async def _checked(scope: Message, receive: Receive) -> tuple[tuple[int, str] | None, Receive]:
    """A refusal or None, and the rest of the request."""
    path = scope["path"]
    if "://" in path or "/proxy=" in path or ":/" in path.partition("/file=")[2]:
        return (403, "only files that were handed in or made here can be read"), receive
    if scope["method"] != "POST":
        return None, receive
    if path.rstrip("/").endswith("/upload"):
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return (411, "an upload must say its length"), receive
        return ((413, "the upload is too large") if int(length) > 4 * UPLOAD else None), receive
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return (400, "gone"), receive
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > CALL:
            return (413, f"a call has at most {CALL} bytes"), receive
    if _names_address(body, "/mcp" in path):
        return (403, "give the file itself, not its address"), receive
    replayed = False

    async def again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return None, again


def _names_address(body: bytes, mcp: bool = False) -> bool:
    """Whether a call names a file by an address, anywhere in its JSON; of a tool's arguments MCP takes any address for a file."""
    try:
        waiting = [(json.loads(body), False)] if body else []
    except (ValueError, RecursionError):
        return False  # no call, which gradio says
    while waiting:
        node, argument = waiting.pop()
        if isinstance(node, dict):
            if "://" in str(node.get("path", "")):
                return True
            waiting += [(value, argument or (mcp and name == "arguments")) for name, value in node.items()]
        elif isinstance(node, list):
            waiting += [(value, argument) for value in node]
        elif argument and isinstance(node, str) and node.lstrip().lower().startswith(("http://", "https://")):
            return True
    return False
