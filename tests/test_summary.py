"""The demo's summary, from messages as they are on the topics."""

import json

import numpy as np
import pytest

from tests.test_messages import DATA
from tools.quality import accuracy_interval, difference_interval, mean_difference_interval
from tools.summary import Summary
from utils.messages import decode_control


def rows(summary: Summary) -> dict[str, str]:
    names, texts = (list(column.cells) for column in summary.table().columns)
    return dict(zip(names, texts, strict=True))


def add_request(summary: Summary, request_id: str, **outcome: str) -> None:
    request = {"request_id": request_id, "data": DATA | outcome}
    summary.add_app_message(json.dumps(request).encode(), timestamp=10.0, now=10.0)


def add_reply(summary: Summary, request_id: str, now: float = 10.01, **fields) -> None:
    reply = {"request_id": request_id, "prediction": 0.0} | fields
    summary.add_app_message(json.dumps(reply).encode(), timestamp=now, now=now)


def test_without_messages_it_has_zeros():
    assert rows(Summary()) == {
        "requests": "0",
        "predictions": "0",
        "requests without an answer": "0",
        "duplicate answers": "0",
        "retrain requests": "0",
        "trainings": "0",
        "models that answered": "0",
    }


def test_answers_are_counted_and_timed():
    summary = Summary()
    for request_id in ("a", "b", "c", "d"):
        add_request(summary, request_id)
    add_reply(summary, "a", now=10.010, probability=0.1, model_id=0)
    add_reply(summary, "a", now=10.020, probability=0.1, model_id=0)
    add_reply(summary, "b", now=10.050)  # the tutorial's predictor: no probability, no model
    error = b'{"request_id": "c", "error": "data.age: is missing"}'
    summary.add_app_message(error, timestamp=10.0, now=10.060)
    add_reply(summary, "of a request before", model_id=0)
    summary.add_control_message(decode_control(b'{"retrain": true}'))
    summary.add_control_message(decode_control(b'{"training_failed": "no memory"}'))
    shown = rows(summary)
    assert shown["requests"] == "4"
    assert shown["predictions"] == "3"
    assert shown["requests without an answer"] == "1"
    assert shown["duplicate answers"] == "1"
    assert shown["retrain requests"] == "1"
    assert shown["trainings"] == "1 failed"
    assert shown["models that answered"] == "2"
    assert shown["latency p50 / p99"] == "35 ms / 60 ms"
    assert shown["longest gap between answers"] == "30 ms"
    assert not any(name.startswith("accuracy") for name in shown)  # no outcome is known


def test_a_small_difference_is_called_noise():
    summary = Summary()
    for number in range(200):
        right = number not in (5, *range(100, 125))  # 33 of 34, then 141 of 166
        add_request(summary, f"{number}", income_bracket="<=50K" if right else ">50K")
        add_reply(summary, f"{number}", probability=0.2, model_id=0 if number < 34 else number)
    shown = rows(summary)
    assert shown["accuracy of 200 answers"].startswith("0.870 (95 %: 0.816 to 0.910), logloss ")
    assert shown["of model 0 (34)"].startswith("0.971 (95 %: 0.851 to 0.995), logloss ")
    assert shown["of later models (166)"].startswith("0.849 (95 %: ")
    assert shown["accuracy, later minus first"] == "-0.121 (95 %: -0.188 to +0.007), within noise"


def test_late_outcomes_count():
    summary = Summary()
    for request_id in ("a", "b"):
        add_request(summary, request_id)
        add_reply(summary, request_id, probability=0.2, model_id=0)
    summary.add_outcome(("a", 0.0))
    summary.add_outcome(("of a request before", 0.0))
    summary.add_outcome(None)
    quality = rows(summary)["accuracy of 1 answers"]
    assert quality == "1.000 (95 %: 0.207 to 1.000), logloss 0.223"


def test_the_intervals_are_the_published_ones():
    # Newcombe, 1998: Statistics in Medicine 17, 857-872 (table I) and 873-890 (table II).
    assert accuracy_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert accuracy_interval(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert difference_interval(48, 80, 56, 70) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_the_interval_of_a_difference_of_means_has_both_variances():
    first, later = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 4.0, 6.0])
    # Standard errors: sqrt(5/3 / 4) and sqrt(4 / 3); their squares add up to 1.75.
    low, high = mean_difference_interval(first, later)
    assert (low, high) == pytest.approx((1.5 - 1.96 * 1.75**0.5, 1.5 + 1.96 * 1.75**0.5))
    assert mean_difference_interval(first, later[:1]) == (-np.inf, np.inf)
