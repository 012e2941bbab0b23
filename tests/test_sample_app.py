"""What sample_app.py prints, and how it ends."""

import json
import re
import signal

import numpy as np
import pytest

from tests.harness.pages import shown_in_readme
from tests.harness.pipeline import wait_until
from tests.harness.terminal import run_on_a_terminal
from utils.company import LATER, Company, visitors
from utils.datasets import dataset
from utils.datasets.base import DatasetError
from utils.messages import Prediction, encode

ANSWER = r"\d+, [\w?-]+ -> [01]\.\d\d, (no )?offer; (right|wrong|outcome known later)"


def test_one_line_a_person(pipeline):
    pipeline.predictor()
    app = pipeline.start("sample_app.py", "--messages", "20", "--interval", "0.05")
    assert app.wait(timeout=60) == 0, app.log.read_text()
    *answers, last = [line for line in app.log.read_text().splitlines() if "topic" not in line]
    assert len(answers) == 20
    documented = shown_in_readme("sample_app.1")
    assert documented
    assert all(re.fullmatch(ANSWER, line) for line in answers + documented)
    assert answers[0].startswith("25, Machine-op-inspct -> 0.0")
    accuracy = sum(line.endswith("right") for line in answers) / 20
    assert last == (
        f"20 requests sent, 0 not answered, 0 errors, model 0, "
        f"accuracy so far {accuracy:.3f} (20 known outcomes)."
    )
    assert "\x1b[" not in app.log.read_text()  # colors are for terminals


@pytest.mark.slow
def test_late_outcomes_are_counted_when_they_are_known(pipeline):
    pipeline.predictor()
    delayed = ("--messages", "20", "--interval", "0.05", "--outcome-delay", "1")
    app = pipeline.start("sample_app.py", *delayed)
    assert app.wait(timeout=60) == 0
    lines = app.log.read_text().splitlines()
    # An outcome may be known 0.5 s after its request: before the answer, on a busy machine.
    assert sum(bool(re.fullmatch(ANSWER, line)) for line in lines) == 20
    assert any("outcome known later" in line for line in lines)
    reported = {m["request_id"] for m in pipeline.messages("outcomes_topic")}
    requests = [m for m in pipeline.messages("app_messages") if "data" in m]
    known = sum(request["request_id"] in reported for request in requests)
    assert f"({known} known outcomes)" in lines[-1]


@pytest.mark.slow
def test_many_requests_are_not_printed_one_by_one(pipeline):
    pipeline.predictor()
    app = pipeline.start("sample_app.py", "--messages", "2000", "--interval", "0")
    assert app.wait(timeout=60) == 0
    lines = app.log.read_text().splitlines()
    assert len(lines) < 15
    assert lines[-1].startswith("2,000 requests sent, 0 not answered, ")


@pytest.mark.slow
def test_on_a_terminal_the_last_line_shows_the_state(pipeline):
    pipeline.predictor()
    command = ["sample_app.py", "--messages", "5", "--interval", "0.3"]
    output, code = run_on_a_terminal(command, pipeline.environment | {"COLUMNS": "120"})
    assert code == 0
    assert re.search(rb"[1-4] requests sent, \d not answered", output)
    assert b"\x1b[32m25, Machine-op-inspct -> " in output
    assert output.endswith(b"known outcomes).\x1b[0m\r\n")


@pytest.mark.slow
def test_without_a_predictor_it_says_what_to_look_at_and_ctrl_c_ends_it(pipeline):
    app = pipeline.start("sample_app.py", "--messages", "5", "--interval", "0.1")
    where = f"KAFKA_HOST={pipeline.host}, TOPIC_PREFIX={pipeline.prefix!r}"
    pipeline.wait_for_output(app, f"No answer for 10 s. Is predictor.py running, with {where}?")
    app.send_signal(signal.SIGINT)
    assert app.wait(timeout=10) == 1
    assert app.log.read_text().splitlines()[-1] == "5 requests were not answered."


def test_ctrl_c_between_two_requests_is_no_error(pipeline):
    pipeline.predictor()
    app = pipeline.start("sample_app.py", "--interval", "60")
    pipeline.wait_for_output(app, " -> ")
    app.send_signal(signal.SIGINT)
    assert app.wait(timeout=10) == 0
    assert app.log.read_text().splitlines()[-1].startswith("1 requests sent, 0 not answered, ")


def test_an_error_reply_is_shown_with_its_request_id(pipeline):
    app = pipeline.start("sample_app.py", "--messages", "1")
    request = wait_until(lambda: pipeline.messages("app_messages"), what="a request")[0]
    reply = {"request_id": request["request_id"], "error": "data.age: is missing"}
    pipeline.send(json.dumps(reply).encode())
    assert app.wait(timeout=30) == 0
    error = f"error: data.age: is missing (request {request['request_id']})"
    assert f"25, Machine-op-inspct -> {error}" in app.log.read_text()


def test_damaged_data_is_one_sentence(pipeline):
    (pipeline.folder / "data" / "adult.test").write_bytes(b"damaged")
    app = pipeline.start("sample_app.py")
    assert app.wait(timeout=30) == 1
    assert app.log.read_text().splitlines()[-1].endswith(": run python initialize.py")


def test_a_prediction_and_its_outcome_meet_in_either_order():
    company = Company(2, 0, 0, False, stop=None)
    company.add_outcome("a", ">50K")
    assert company.add_prediction(Prediction("a", 1.0, 0.9, 3)) == "right"
    assert company.add_prediction(Prediction("b", 1.0, 0.9, 3)) == LATER
    assert company.progress().endswith("model 3, accuracy so far 1.000 (1 known outcomes)")
    company.add_outcome("b", "<=50K.")
    company.add_outcome("b", "<=50K.")  # reported twice
    assert company.progress().endswith("accuracy so far 0.500 (2 known outcomes)")


def test_predictions_whose_outcome_never_comes_do_not_pile_up(monkeypatch):
    monkeypatch.setattr("utils.company.MAX_WAITING", 100)
    company = Company(1_000, 0, 1, False, stop=None)
    for number in range(1_000):
        company.add_prediction(Prediction(f"{number}", 0.0, 0.1, 0))
        company.add_outcome(f"of another program {number}", "<=50K")
    assert len(company._predictions) == len(company._outcomes) == 100
    company.add_outcome("999", "<=50K")
    assert company.progress().endswith("accuracy so far 1.000 (1 known outcomes)")


def test_only_columns_and_the_label_of_a_visitor_are_sent(monkeypatch):
    visitor = {"age": np.int64(25), "known_to_a_simulation": 0.7, "income_bracket": ">50K"}
    monkeypatch.setattr(dataset, "visitors", lambda folder, drift_at: iter([visitor]))
    assert list(visitors(None)) == [({"age": 25}, ">50K")]
    assert encode(next(visitors(None))) == b'[{"age":25},">50K"]'


@pytest.mark.parametrize("label", [None, "rich", 1.0])
def test_a_visitor_without_a_valid_label_is_an_error_of_the_data_set(monkeypatch, label):
    visitor = {"age": 25, "income_bracket": label}
    monkeypatch.setattr(dataset, "visitors", lambda folder, drift_at: iter([visitor]))
    with pytest.raises(
        DatasetError, match=r"^utils/datasets/adult.py: visitors\(\): income_bracket"
    ):
        list(visitors(None))
