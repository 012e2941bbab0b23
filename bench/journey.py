"""The web shop in examples/journey: how long from a click to the changed page?

    python -m bench.journey                                # five minutes
    python -m bench.journey --clicks 50 --sessions 10 --tabs 5

Starts a Kafka of its own, a predictor, the aggregator and the shop. Measures until an answer is
received without a browser; in a headless Chromium, from the click to the frame that shows the new
layout; the same while sessions without a browser look at an item a second each; and in many tabs,
each with a session of its own, that click at once. Last, it compares all that was received with
what the predictor sent to Kafka: an answer that reached another session than its own is counted as
mixed up.
"""

import os
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
from playwright.sync_api import Browser
from rich.console import Console
from rich.table import Table

from tests.harness.brokers import initialize, running_broker
from tests.harness.journey import Journey, Tab, running_chromium, view_of
from tests.harness.shop_visitor import Visitor
from utils.datasets.shop import ITEMS
from utils.script import command_line, run

THINK = 1.0  # seconds between two views of a session without a browser
SOURCES = ["search", "mail", "ad", "direct"]


def clicks(tabs: list[Tab], number: int, chance: Random) -> list[float]:
    """Click in all tabs, wait for all layouts, again and again; return milliseconds."""
    taken = []
    for _ in range(number):
        for tab in tabs:
            tab.click(chance.choice(ITEMS))
        for tab in tabs:
            tab.views.append(tab.wait_for_layout()[0])
            taken.append(float(tab.main.get_attribute("data-milliseconds")))
            tab.shown.append(tab.page.locator("#why").inner_text())
    return taken


def looks(visitor: Visitor, number: int, chance: Random) -> list[float]:
    """Look at one item after the other without a browser; return milliseconds."""
    for _ in range(number):
        visitor.view(chance.choice(ITEMS))
        wait_for_all([visitor])
    return wait_for_all([visitor])


@contextmanager
def busy(port: int, sessions: int, visitors: list[Visitor]):
    """Have sessions that look at an item a second each; they are added to `visitors`."""
    stop = threading.Event()

    def look_around(visitor: Visitor, chance: Random) -> None:
        while not stop.wait(THINK * chance.uniform(0.5, 1.5)):
            visitor.view(chance.choice(ITEMS))

    visitors += [Visitor(port, SOURCES[number % 4]) for number in range(sessions)]
    threads = [
        threading.Thread(target=look_around, args=[visitor, Random(number)])
        for number, visitor in enumerate(visitors)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_for_all(visitors: list[Visitor]) -> list[float]:
    """Return how long each view took, in milliseconds, when all have their answers."""
    deadline = time.monotonic() + 30
    while any(len(each.received_at) < len(each.posted) for each in visitors):
        assert time.monotonic() < deadline, "a view got no answer"
        time.sleep(0.01)
    return [
        (visitor.received_at[view] - posted) * 1000
        for visitor in visitors
        for view, posted in visitor.posted.items()
    ]


def mixed_up(journey: Journey, visitors: list[Visitor], tabs: list[Tab]) -> tuple[int, int]:
    """Return how many answers were received, and how many of them are not the right ones."""
    sent = {view_of(reply): reply for reply in journey.replies()}
    wrong, received = 0, 0
    for visitor in visitors:
        for message in visitor.received:
            own = message["view"] in visitor.posted
            right = own and message["chances"] == sent[message["view"]]["probabilities"]
            wrong, received = wrong + (not right), received + 1
    for tab in tabs:
        for view, shown in zip(tab.views, tab.shown, strict=True):
            chances = sent[view]["probabilities"].items()
            expected = ", ".join(f"{name} {round(p * 100)} %" for name, p in chances)
            wrong, received = wrong + (f": {expected};" not in shown), received + 1
    return received, wrong


def measure(journey: Journey, chromium: Browser, chosen) -> Table:
    """Return the table of all figures."""
    chance, visitors, lone = Random(1), [], Visitor(journey.port)
    tab = Tab(chromium, journey.port)
    clicks([tab], 10, chance)  # warms up
    rows = {"one session, until the answer is received": looks(lone, chosen.clicks, chance)}
    rows["one browser"] = clicks([tab], chosen.clicks, chance)
    with busy(journey.port, chosen.sessions, visitors):
        beside = clicks([tab], chosen.clicks, chance)
    rows[f"one browser beside {chosen.sessions} sessions"] = beside
    rows[f"{chosen.sessions} sessions, until the answer is received"] = wait_for_all(visitors)
    tabs = [Tab(chromium, journey.port, SOURCES[n % 4]) for n in range(chosen.tabs)]
    rows[f"{chosen.tabs} tabs that click at once"] = clicks(tabs, chosen.rounds, chance)
    received, wrong = mixed_up(journey, [lone, *visitors], [tab, *tabs])
    assert received == sum(map(len, rows.values())) + 10
    table = Table("milliseconds from the click", "clicks", "p50", "p99", "max")
    for name, taken in rows.items():
        figures = [*np.percentile(taken, [50, 99]), max(taken)]
        table.add_row(name, str(len(taken)), *(f"{each:.0f}" for each in figures))
    table.caption = f"{received:,} answers received, {wrong} mixed up"
    return table


def main() -> None:
    """Measure and print a table."""
    parser = command_line(__doc__, "bench.journey")
    parser.add_argument("--clicks", type=int, default=200, help="in one browser (200)")
    parser.add_argument("--sessions", type=int, default=50, help="without a browser (50)")
    parser.add_argument("--tabs", type=int, default=50, help="sessions in the browser (50)")
    parser.add_argument("--rounds", type=int, default=4, help="clicks of each tab (4)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        initialize(folder, DATASET="shop")
        with running_broker(folder / "kafka") as host:
            journey = Journey(host, "bench-", folder, DATASET="shop", PARTITIONS="2")
            try:
                journey.start_all()
                before = os.getloadavg()[0]
                with running_chromium() as chromium:
                    Console().print(measure(journey, chromium, chosen))
                print(f"Load average before {before:.1f}, after {os.getloadavg()[0]:.1f}.")
            finally:
                journey.stop_all()


if __name__ == "__main__":
    run(main)
