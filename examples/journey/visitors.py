"""What comes from browsers, where everything is data that an attacker may have typed.

A visitor is known by a random cookie: 128 bits that no script can read and nobody can guess. Kafka
gets its digest only, so that a reader of the topics can't take a session over. The shop keeps no
state of a session: it can be restarted at any time.
"""

import asyncio
import hashlib
import re
import secrets
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.journey.events import (
    Arrived,
    Device,
    Event,
    Item,
    Left,
    Reacted,
    Source,
    Subscribed,
    Viewed,
)

MAX_BODY = 1_000  # bytes
BODY_TIMEOUT = 5.0  # seconds for a body to arrive
COOKIE, BEEN_HERE = "session", "been_here"
YEAR = 365 * 86_400  # seconds
HEADERS = {
    # Nothing but the shop's own files; no inline script or style, no frame around it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

ViewName = Annotated[str, Meta(pattern=r"^[0-9a-f-]{36}\Z")]


class Arrive(Struct, tag="arrived", tag_field="kind", forbid_unknown_fields=True):
    """The page was opened."""

    device: Device
    source: Source


class View(Struct, tag="viewed", tag_field="kind", forbid_unknown_fields=True):
    """An item was opened; `view` is a UUID that the page has chosen for it."""

    view: ViewName
    item: Item


class React(Struct, tag="reacted", tag_field="kind", forbid_unknown_fields=True):
    """The visitor did something with the item of a view."""

    view: ViewName
    reaction: Literal["liked", "basket", "bought"]


class Subscribe(Struct, tag="subscribed", tag_field="kind", forbid_unknown_fields=True):
    """The visitor typed an e-mail address."""

    email: Annotated[str, Meta(pattern=r"^[^@\s]{1,64}@[^@\s]{1,189}\Z")]


class Leave(Struct, tag="left", tag_field="kind", forbid_unknown_fields=True):
    """The page was closed."""


_decode = msgspec.json.Decoder(Arrive | View | React | Subscribe | Leave).decode


def session_of(request: Request) -> str:
    """Return the name of a request's session; HTTPException 403 if it has none."""
    cookie = request.cookies.get(COOKIE, "")
    if not re.fullmatch("[0-9a-f]{32}", cookie):
        raise HTTPException(403, "no session: open the page first")
    return hashlib.sha256(cookie.encode()).hexdigest()[:32]


def give_cookie(request: Request, response: Response) -> None:
    """Give a session to a browser that has none."""
    try:
        session_of(request)
    except HTTPException:
        # Lax: sent with a click on a link in a mail, not with what other sites post.
        options = {"httponly": True, "samesite": "lax", "secure": request.url.scheme == "https"}
        response.set_cookie(COOKIE, secrets.token_hex(16), **options)


def remember_visit(response: Response) -> None:
    """Let a visitor count as returning in later sessions."""
    response.set_cookie(BEEN_HERE, "1", max_age=YEAR, httponly=True, samesite="lax")


async def read_event(request: Request) -> Event:
    """Return the event that a browser reports.

    HTTPException 403 without a session, 415 and 400 for anything but a valid event, 413 for a long
    one, 408 for a slow one.
    """
    session = session_of(request)
    if request.headers.get("content-type") != "application/json":  # a form can't send that
        raise HTTPException(415, "expected application/json")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            reported = _decode(await _body(request))
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(408, "the body did not arrive in time") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise HTTPException(400, "not an event of this shop") from None
    return _event(session, reported, BEEN_HERE in request.cookies)


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"at most {MAX_BODY} bytes")
    return body


def _event(session: str, reported: Struct, been_here: bool) -> Event:
    match reported:
        case Arrive(device=device, source=source):
            return Arrived(session, device, source, "returning" if been_here else "new")
        case View(view=view, item=item):
            return Viewed(session, request_id(session, view), item)
        case React(view=view, reaction=reaction):
            return Reacted(session, request_id(session, view), reaction)
        case Subscribe(email=email):
            return Subscribed(session, email)
        case _:
            return Left(session)


def request_id(session: str, view: str) -> str:
    """Return the request_id of a view: what one page chooses is never that of another session.

    The same view has the same one: a page may report it again after an error.
    """
    return f"{session}-{view}"


def view_of(event: Viewed) -> str:
    """Return the name that the page has chosen for a view."""
    return event.request_id.removeprefix(f"{event.session}-")


class SecurityHeaders:
    """Adds HEADERS to each response (ASGI middleware)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)
