"""The sentence that says how the pipeline is doing."""

import pytest

from monitoring.page.headline import duration, figure, headline
from monitoring.snapshot import Alert
from tests import page_samples as samples

NOW = 1_795_000_000.0


def test_all_right():
    found = headline(samples.running(NOW))
    assert found.level == "good"
    assert found.text == "All right: no request waits for long, model 7, log loss 0.2734."


def test_all_right_without_a_model_that_is_known():
    snapshot = samples.running(NOW)
    snapshot.champion = 99
    assert headline(snapshot).text == "All right: no request waits for long."


def test_alerts_come_first():
    snapshot = samples.alarming(NOW)
    snapshot.alerts = [
        Alert("a", "first", NOW),
        Alert("b", "", NOW),
        Alert("c", "third.", NOW),
        Alert("d", "over", NOW, NOW),
    ]
    assert headline(snapshot).text == "First. An alert without a text. 1 more alert."
    assert headline(snapshot).level == "bad"


def test_requests_that_wait():
    snapshot = samples.running(NOW)
    snapshot.flow.oldest_unanswered = 75.0
    assert headline(snapshot).text == "2 requests without an answer, the oldest for 75 s."
    snapshot.flow.unanswered = 1
    assert headline(snapshot).text == "1 request without an answer, the oldest for 75 s."
    assert headline(snapshot).level == "bad"


def test_a_model_that_is_useless_is_not_all_right():
    snapshot = samples.running(NOW)
    champion = snapshot.models[1]
    champion.is_useless = True
    found = headline(snapshot)
    assert found.level == "bad"
    assert found.text == (
        "No request waits for long, but answers are worse than the mean outcome, model 7, log loss "
        "0.2734."
    )
    champion.is_useless = False
    assert headline(snapshot).level == "good"


def test_drift():
    snapshot = samples.running(NOW)
    for each in snapshot.drift[:5]:
        each.drifted = True
    found = headline(snapshot)
    assert found.level == "warning"
    assert found.text.endswith("but the data drift: age, visits, basket and 2 more.")


def test_before_there_is_something_to_judge():
    assert headline(samples.empty(NOW)).level == "waiting"
    snapshot = samples.running(NOW)
    snapshot.following.behind = 400.0
    assert headline(snapshot).text == "The monitor is still reading: 7 min behind."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0124, "12 ms"),
        (4.24, "4.2 s"),
        (75, "75 s"),
        (800, "13 min"),
        (20_000, "6 h"),
        (4e5, "5 days"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.27341, "0.2734"), (53.44, "53.4"), (3021.4, "3,021"), (-2.5, "-2.5000")]
)
def test_figures(value, text):
    assert figure(value) == text
