"""The monitor's page in a real browser."""

import re
import time
from contextlib import closing, contextmanager
from types import SimpleNamespace

import pytest

from monitoring.page.page import Page
from monitoring.snapshot import Alert, CalibrationBin, Drift, Mark
from tests import page_samples as samples
from tests.harness.journey import CHROMIUM, running_chromium
from tests.harness.pipeline import wait_until
from tools.local_kafka import free_port

MARKUP = """<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'&amp;"""
PATIENCE = 20_000  # milliseconds


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def page():
    with closing(Page("127.0.0.1", 0)) as page:
        page.publish(samples.running(time.time()), samples.histories(time.time()))
        yield page


class Tab:
    """A tab that shows the page.

    problems : what its console says; hosts : that it has sent requests to.
    """

    def __init__(self, context, page: Page | SimpleNamespace) -> None:
        self.problems: list[str] = []
        self.hosts: set[str] = set()
        self.page = context.new_page()
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(page.address)
        self.wait_for("body:not(.stale)")

    def wait_for(self, selector: str, timeout: float = PATIENCE, **options) -> None:
        self.page.locator(selector, **options).first.wait_for(timeout=timeout)

    def wait_for_points(self, count: int) -> None:
        """Return when each chart shows so many points."""
        charts = self.page.locator(f'figure[data-points="{count}"]')
        wait_until(lambda: self._updated() and charts.count() == 6, 20, f"{count} points")

    def _updated(self) -> bool:
        self.page.wait_for_timeout(20)  # lets Playwright handle what the browser says
        return True

    def forget_lost_connections(self) -> None:
        """Forget what the browser itself has said about them."""
        self.problems[:] = [text for text in self.problems if "net::ERR_" not in text]

    def is_wider_than_its_window(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


@contextmanager
def shown(chromium, page: Page | SimpleNamespace, width: int = 1280, **options):
    """Show the page in a browser of its own; AssertionError if its console says anything."""
    context = chromium.new_context(viewport={"width": width, "height": 800}, **options)
    tab = Tab(context, page)
    yield tab
    context.close()
    assert tab.problems == []
    assert tab.hosts == {f"127.0.0.1:{page.port}"}


def cut(histories: dict, points: int) -> dict:
    """Leave the first points of the hour."""
    histories["hour"].points = histories["hour"].points[:points]
    return histories


def test_a_new_model_and_new_points_appear_without_a_reload(chromium, page):
    now = time.time()
    page.publish(samples.running(now), cut(samples.histories(now), 300))
    with shown(chromium, page) as tab:
        tab.wait_for("#sentence", has_text="All right: no request waits for long, model 7, log")
        tab.wait_for('tr[data-model="7"] [data-role="champion"]')
        tab.wait_for_points(300)
        page.publish(samples.running(now, champion=8), cut(samples.histories(now), 303))
        tab.wait_for("#sentence", has_text="model 8, ")
        tab.wait_for('tr[data-model="8"] [data-role="champion"]')
        tab.wait_for('[data-arrow="model"]', has_text="model 8")
        tab.wait_for_points(303)
        tab.page.get_by_role("button", name="Day").click()
        tab.wait_for_points(len(samples.histories(now)["day"].points))
        assert re.search(
            r"log loss 0\.\d{4}", tab.page.locator(".plot").first.get_attribute("aria-label")
        )


def test_it_goes_on_with_a_monitor_that_was_started_again(chromium, page):
    now = time.time()
    page.publish(samples.running(now), cut(samples.histories(now), 300))
    with shown(chromium, page) as tab:
        tab.wait_for_points(300)
        page.close()
        tab.wait_for("body.stale #connection", has_text="no news for ")
        tab.wait_for("#sentence", has_text="No news from the monitor since ")
        with closing(Page("127.0.0.1", page.port)) as another:
            another.publish(samples.running(now, champion=9), cut(samples.histories(now), 305))
            tab.wait_for(
                "body:not(.stale) #sentence",
                has_text="All right: no request waits for long, model 9",
            )
            tab.wait_for_points(305)
        tab.forget_lost_connections()


def hostile(now: float):
    """Return a snapshot in which every text is markup."""
    snapshot = samples.alarming(now)
    snapshot.dataset = snapshot.loss = MARKUP
    snapshot.flow.errors = {MARKUP: 3, "x" * 500: 1, "__proto__": 2}
    for model in snapshot.models:
        model.role = model.why = model.created = MARKUP
        model.figures = {MARKUP: 0.5, "constructor": 1.0}
        model.calibration = [CalibrationBin(float("nan"), 1e300, 1)]
    snapshot.drift = [
        Drift(MARKUP + "y" * 300, 1e9, 0.0, 5, drifted=True),
        Drift("__proto__", 1, 2, 3),
    ]
    snapshot.alerts = [Alert(MARKUP, MARKUP + "z" * 300, now), Alert("", "", now - 9, now)]
    snapshot.marks = [Mark(now - 5, kind, MARKUP) for kind in ("alert", MARKUP, "constructor")]
    snapshot.following.notes = [MARKUP, "w" * 400]
    return snapshot


@pytest.mark.parametrize("width", [360, 1600])
def test_no_text_becomes_markup_or_breaks_the_layout(chromium, page, width):
    now = time.time()
    snapshot, histories = hostile(now), samples.histories(now)
    for history in histories.values():
        history.marks = snapshot.marks
    page.publish(snapshot, histories)
    with shown(chromium, page, width) as tab:
        tab.wait_for("#sentence", has_text=MARKUP)
        tab.wait_for("#errors li", has_text=MARKUP)
        for part in ("models", "drift", "alerts", "notes", "events"):
            assert MARKUP in tab.page.locator(f"#{part}").inner_text()
        assert tab.page.locator("img, main script").count() == 0
        assert tab.page.evaluate("window.hacked") is None
        assert not tab.is_wider_than_its_window()


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 700, 1600])
def test_no_width_needs_a_horizontal_scroll(chromium, page, width):
    page.publish(samples.alarming(time.time()), samples.histories(time.time()))
    with shown(chromium, page, width, color_scheme="dark") as tab:
        tab.wait_for('#headline[data-level="bad"]')
        tab.wait_for('[data-arrow="waiting"]', has_text="1,204")
        assert not tab.is_wider_than_its_window()


@pytest.mark.slow
def test_a_number_has_no_accuracy_and_nothing_is_explained(chromium, page):
    now = time.time()
    page.publish(samples.running(now, kind="number"), samples.histories(now, kind="number"))
    with shown(chromium, page) as tab:
        tab.wait_for('[data-chart="Loss"] h3', has_text="Squared error")
        assert not tab.page.locator('[data-chart="Accuracy"]').is_visible()
        empty = samples.histories(now)
        for history in empty.values():
            history.points, history.marks = [], []
        page.publish(samples.empty(now), empty)
        tab.wait_for("#models", has_text="No model is known yet")
        tab.wait_for("#sentence", has_text="No request yet")
        assert tab.page.locator(".plot.nothing").count() == 6


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_page_of_a_running_pipeline(chromium, pipeline):
    port = free_port()
    monitor = ("monitor.py", {"until": "The page is open: ", "MONITOR_PORT": str(port)})
    first = pipeline.start_and_wait(monitor[0], **monitor[1])
    pipeline.predictor()
    pipeline.trainer()
    page = SimpleNamespace(address=f"http://127.0.0.1:{port}", port=port)
    with shown(chromium, page) as tab:
        tab.wait_for("#sentence", has_text="No request yet")
        tab.wait_for('[data-arrow="model"]', has_text="model 0")
        pipeline.requests(30)
        tab.wait_for('[data-arrow="predictions"]', has_text="30")
        tab.wait_for('[data-arrow="model"]', has_text="model 1", timeout=150_000)
        tab.wait_for("#events", has_text="model 1 promoted: ")
        first.kill()
        tab.wait_for("#sentence", has_text="No news from the monitor since ")
        pipeline.send(b"no JSON")
        pipeline.requests(2)
        pipeline.start_and_wait(monitor[0], **monitor[1])
        tab.wait_for('body:not(.stale) [data-arrow="letters"]', has_text="1")
        tab.wait_for('[data-arrow="predictions"]', has_text="32")
        tab.wait_for('tr[data-model="1"] [data-label="answers"]', has_text="2")
        tab.forget_lost_connections()
