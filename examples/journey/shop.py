"""A small web shop whose page changes its layout by the prediction, while the visitor looks at it.

    DATASET=shop python -m examples.journey.shop               # http://127.0.0.1:8000
    DATASET=shop python -m examples.journey.shop --port 8080

Needs Kafka, predictor.py and examples.journey.aggregator. Each click goes to the topic `events`;
predictions for the shop's own visitors are pushed to the browser of each one by server-sent events.
"""

import asyncio
import socket
from collections import Counter
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import uvicorn
from kafka import KafkaProducer
from kafka.errors import KafkaError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from examples.client import (
    PRODUCER,
    ClientClosed,
    PredictionClient,
    RequestRefused,
    TooManyRequests,
)
from examples.journey.catalog import CATALOG, require_shop
from examples.journey.events import EVENTS, TOPICS, Arrived, Event, Viewed
from examples.journey.layouts import layout_for
from examples.journey.streams import MAX_STREAMS, Streams, TooManyStreams
from examples.journey.visitors import (
    SecurityHeaders,
    give_cookie,
    read_event,
    remember_visit,
    session_of,
    view_of,
)
from utils.console import say, warn
from utils.kafka_client.producer import make_producer
from utils.kafka_client.topics import APP_MESSAGES, prepare_topics
from utils.messages import Prediction, encode
from utils.process import stop_on_signals
from utils.script import command_line, run

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
STORE_TIMEOUT = 5.0  # seconds for Kafka to acknowledge an event
PREDICTION_TIMEOUT = 10.0  # seconds after which the page stays as it is
MAX_WAITING = 1_000  # views whose predictions are waited for
MAX_WAITING_OF_SESSION = 5
UNAVAILABLE = {"Retry-After": "1"}


class Shop:
    """Sends what visitors do to Kafka, and predictions to the visitors that they are about."""

    def __init__(self, client: PredictionClient, producer: KafkaProducer) -> None:
        self._client, self._producer = client, producer
        self.streams = Streams()
        self._waiting: Counter[str] = Counter()  # views by session
        self._tasks: set[asyncio.Task] = set()

    async def report(self, event: Event) -> None:
        """Return when Kafka has an event; HTTPException 429 or 503 if it may not have it."""
        if isinstance(event, Viewed):
            self._watch(event)  # before it is sent: the prediction may be quick
        stored: Future = Future()
        try:
            sent = self._producer.send(EVENTS, encode(event), key=event.session.encode())
            sent.add_callback(stored.set_result).add_errback(stored.set_exception)
            await asyncio.wait_for(asyncio.wrap_future(stored), STORE_TIMEOUT)
        except (KafkaError, TimeoutError):
            raise HTTPException(503, "Kafka is away", UNAVAILABLE) from None

    def _watch(self, event: Viewed) -> None:
        """Push the prediction for a view, as soon as it comes, to the visitor's browser."""
        if self._waiting[event.session] >= MAX_WAITING_OF_SESSION:
            raise HTTPException(429, "too many views at once", UNAVAILABLE)
        try:
            answer = self._client.expect(event.request_id)
        except (TooManyRequests, ClientClosed):
            raise HTTPException(503, "too many visitors", UNAVAILABLE) from None
        except ValueError:
            return  # the page reports it again
        self._waiting[event.session] += 1
        task = asyncio.create_task(self._push(event, answer))
        self._tasks.add(task)  # the event loop keeps no reference
        task.add_done_callback(self._tasks.discard)

    async def _push(self, event: Viewed, answer: Future[Prediction]) -> None:
        try:
            prediction = await asyncio.wait_for(asyncio.wrap_future(answer), PREDICTION_TIMEOUT)
            self.streams.push(event.session, _message(event, prediction))
        except (TimeoutError, ClientClosed):
            pass  # the page stays as it is
        except RequestRefused as refused:
            warn(f"A request was refused: {refused}")
        finally:
            self._waiting[event.session] -= 1
            if not self._waiting[event.session]:
                del self._waiting[event.session]


def _message(event: Viewed, prediction: Prediction) -> str:
    layout = layout_for(prediction)
    message = {"view": view_of(event), "layout": layout, "model": prediction.model_id}
    return encode(message | {"chances": prediction.probabilities}).decode()


async def page(request: Request) -> Response:
    """Serve the page, with a session if the browser has none."""
    response = FileResponse(PAGE / "index.html")
    give_cookie(request, response)
    return response


async def items(request: Request) -> Response:
    """Serve the catalog."""
    return JSONResponse([item._asdict() for item in CATALOG.values()])


async def events(request: Request) -> Response:
    """Take an event that a page reports."""
    event = await read_event(request)
    await request.app.state.shop.report(event)
    response = Response(status_code=202)
    if isinstance(event, Arrived):
        remember_visit(response)
    return response


async def stream(request: Request) -> Response:
    """Push predictions for the visitor's own views."""
    try:
        return request.app.state.shop.streams.response(session_of(request))
    except TooManyStreams as error:
        raise HTTPException(503, str(error), UNAVAILABLE) from None


def make_app(shop: Shop) -> Starlette:
    """Return the web application."""
    routes = [
        Route("/", page),
        Route("/items", items),
        Route("/events", events, methods=["POST"]),
        Route("/stream", stream),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]
    # A page of another site that has this address as its own name (DNS rebinding) gets nothing.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app = Starlette(routes=routes, middleware=[Middleware(SecurityHeaders), hosts])
    app.state.shop = shop
    return app


class Server(uvicorn.Server):
    """A server that ends the streams when it stops: no browser does."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the requests that are there, and stop."""
        self.config.app.state.shop.streams.end()
        await super().shutdown(sockets)


def serve(app: Starlette, listener: socket.socket) -> None:
    """Serve the application until Ctrl-C or SIGTERM."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        limit_concurrency=2 * MAX_STREAMS,
        timeout_graceful_shutdown=2,  # seconds
    )
    Server(config).run(sockets=[listener])


def main() -> None:
    """Open the shop."""
    parser = command_line(__doc__, "examples.journey.shop")
    parser.add_argument("--port", type=int, default=8000, help="on loopback; 0: any (8000)")
    port = parser.parse_args().port
    require_shop()
    stop_on_signals()  # uvicorn hands them on when it has stopped
    prepare_topics(read=[APP_MESSAGES], write=[EVENTS], others=TOPICS)
    try:
        listener = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise SystemExit(f"--port: {port} can't be used: {error}") from None
    with (
        closing(listener),
        closing(PredictionClient(MAX_WAITING)) as client,
        closing(make_producer(**PRODUCER)) as producer,
    ):
        producer.partitions_for(EVENTS)  # now, so that no send() waits for it
        say(f"The shop is open: http://{HOST}:{listener.getsockname()[1]}", "bold")
        serve(make_app(Shop(client, producer)), listener)


if __name__ == "__main__":
    run(main)
