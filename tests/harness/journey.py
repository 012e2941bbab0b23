"""The web shop in examples/journey: its programs on a pipeline, and a browser that shows it."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.harness.pipeline import Pipeline, wait_until
from utils.datasets.shop import CATEGORIES, ITEMS
from utils.messages import Prediction

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def view_of(message: dict) -> str:
    """Return the name that a page has given to the view of a request, a reply or an outcome."""
    return message["request_id"].partition("-")[2]


class Journey(Pipeline):
    """A pipeline of the shop's data set with an aggregator and a shop."""

    def start_all(self) -> None:
        """Start everything at once; return when it is ready."""
        predictor = self.start("predictor.py")
        self.aggregator = self.start("-m", "examples.journey.aggregator")
        self.shop = self.start("-m", "examples.journey.shop", "--port", "0")
        self.wait_for_output(predictor, " answers with model ")
        self.wait_for_output(self.aggregator, " joins the events of ")
        self.wait_for_output(self.shop, "The shop is open: ")
        self.port = int(re.search(r"127.0.0.1:(\d+)", self.shop.log.read_text())[1])

    def replace_aggregator(self, *options: str) -> None:
        """Kill the aggregator, and start another one."""
        self.aggregator.kill()
        self.aggregator.wait()
        self.aggregator = self.start("-m", "examples.journey.aggregator", *options)

    def requests_so_far(self) -> list[dict]:
        """Return all requests."""
        return [m for m in self.messages("app_messages") if "data" in m]

    def reply_to(self, view: str) -> Prediction:
        """Return the predictor's reply to a view, read from Kafka."""
        (reply,) = (each for each in self.replies() if view_of(each) == view)
        # The tests run with another data set, whose predictions are numbers.
        return Prediction(reply["request_id"], 0.0, probabilities=reply["probabilities"])

    def outcome_of(self, view: str) -> str:
        """Return the only outcome of a view, when it is there."""

        def found():
            return [each for each in self.messages("outcomes_topic") if view_of(each) == view]

        (outcome,) = wait_until(found, what="an outcome")
        return outcome["outcome"]


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Run a headless Chromium, the system's. No asyncio.run() in the same thread meanwhile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A browser of its own (cookies are not shared) that shows the shop.

    views, shown : for the caller, what it has seen.
    """

    def __init__(self, chromium: Browser, port: int, source: str = "direct") -> None:
        self.context = chromium.new_context()
        self.page, self.problems = self.context.new_page(), []
        self.views: list[str] = []
        self.shown: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(f"http://127.0.0.1:{port}/?source={source}")
        self.page.locator("body[data-ready]").wait_for()
        self.main = self.page.locator("#main")

    def click(self, item: str) -> None:
        """Open the item's category, then the item."""
        self.page.locator("#categories button").nth(ITEMS.index(item) % len(CATEGORIES)).click()
        self.page.locator(f'#all .card[data-item="{item}"]').click()

    def wait_for_layout(self) -> tuple[str, str]:
        """Return the view and the layout that its prediction has led to."""
        self.page.locator("#main[data-milliseconds]").wait_for()
        return self.main.get_attribute("data-view"), self.main.get_attribute("data-layout")
