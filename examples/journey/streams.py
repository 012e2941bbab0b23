"""Server-sent events: pushes messages to the browsers of one session, and to nobody else.

The format is that of the HTML standard, section 9.2. All is bounded: the streams of all sessions
and of one session, the messages that wait for a slow browser, the life of a stream. A browser opens
a new one by itself when its stream ends.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import chain

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

MAX_STREAMS = 1_000
MAX_STREAMS_OF_SESSION = 4  # one more ends the oldest
MAX_MESSAGES = 20  # that wait for a slow browser; one more drops the oldest
LIFETIME = 300.0  # seconds; ends what a dead browser has left
PING_INTERVAL = 15.0  # seconds without a message, so that proxies keep the connection
RETRY_MS = 500  # after which a browser opens a new stream


class TooManyStreams(Exception):
    """As many streams as are allowed are open."""


class Streams:
    """The open streams by session, and each session's last message.

    number : of all streams that are open.
    """

    def __init__(self) -> None:
        self._open: dict[str, deque[asyncio.Queue]] = {}
        self.number = 0
        self._last: OrderedDict[str, str] = OrderedDict()

    def push(self, session: str, message: str) -> None:
        """Send a message, one line, to all streams of a session, also to one opened later."""
        self._last[session] = message
        self._last.move_to_end(session)
        if len(self._last) > MAX_STREAMS:
            self._last.popitem(last=False)
        for queue in self._open.get(session, ()):
            _put(queue, message)

    def end(self) -> None:
        """End all streams."""
        for queue in chain(*self._open.values()):
            _put(queue, None)

    def response(self, session: str) -> Response:
        """Return a stream of a session's messages; TooManyStreams."""
        if self.number >= MAX_STREAMS:
            raise TooManyStreams(f"{MAX_STREAMS} streams are open")
        return _Stream(self.opened(session))

    @contextmanager
    def opened(self, session: str) -> Iterator[asyncio.Queue]:
        """Have a stream: a queue of messages; None says that the stream has to end."""
        queues = self._open.setdefault(session, deque())
        if len(queues) >= MAX_STREAMS_OF_SESSION:
            _put(queues.popleft(), None)
        queue: asyncio.Queue = asyncio.Queue(MAX_MESSAGES)
        queues.append(queue)
        self.number += 1
        if session in self._last:
            queue.put_nowait(self._last[session])
        try:
            yield queue
        finally:
            self.number -= 1
            with suppress(ValueError):
                queues.remove(queue)
            if not queues and self._open.get(session) is queues:
                del self._open[session]


def _put(queue: asyncio.Queue, message: str | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(message)


class _Stream(StreamingResponse):
    """Sends what comes into a queue; the queue is there while the response lasts."""

    def __init__(self, opened: AbstractContextManager[asyncio.Queue]) -> None:
        super().__init__((), media_type="text/event-stream")
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._opened as queue, suppress(TimeoutError):
            # For a browser that does not read: send() then waits and the lifetime is not looked at.
            async with asyncio.timeout(LIFETIME + PING_INTERVAL):
                self.body_iterator = _texts(queue)
                await super().__call__(scope, receive, send)


async def _texts(queue: asyncio.Queue) -> AsyncIterator[str]:
    yield f"retry: {RETRY_MS}\n\n"
    end = time.monotonic() + LIFETIME
    while time.monotonic() < end:
        try:
            message = await asyncio.wait_for(queue.get(), PING_INTERVAL)
        except TimeoutError:
            yield ": still here\n\n"
        else:
            if message is None:  # a newer stream of the session has replaced this one
                return
            yield f"data: {message}\n\n"
