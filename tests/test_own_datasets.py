"""Data sets that a user adds: the whole pipeline runs with each kind of target and of columns.

They are added to a copy of the project as a user does it: a file, and its name in the list.
"""

import os
import re
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.brokers import QUICK, initialize
from tests.harness.pipeline import Pipeline
from tests.harness.project import add_dataset, copy_project
from utils.files import ROOT
from utils.settings import settings

NAMES = ("levels", "rents", "colors")  # files of tests/datasets/


@pytest.fixture(scope="module")
def pipelines(broker, tmp_path_factory) -> Iterator[dict[str, Pipeline]]:
    """A pipeline for each of the data sets, on which `make demo` has been run, side by side."""
    project, folders = copy_project(tmp_path_factory.mktemp("project")), {}
    for name in NAMES:
        add_dataset(project, name, (ROOT / "tests" / "datasets" / f"{name}.py").read_text())
        folders[name] = tmp_path_factory.mktemp(name)
    with ThreadPoolExecutor() as pool:
        first = [
            pool.submit(initialize, folders[name], *QUICK, project=project, DATASET=name)
            for name in NAMES
        ]
    for each in first:
        each.result()
    pipelines = {
        name: Pipeline(
            settings.kafka_host,
            f"t{os.urandom(4).hex()}-",
            folders[name],
            project,
            DATASET=name,
            RETRAIN_EVERY="50",  # one training
        )
        for name in NAMES
    }
    for pipeline in pipelines.values():
        pipeline.demo = pipeline.start("-m", "tools.demo", "--messages", "60", "--interval", "0.05")
    for pipeline in pipelines.values():
        assert pipeline.demo.wait(timeout=120) == 0, pipeline.demo.log.read_text()
    yield pipelines
    for pipeline in pipelines.values():
        pipeline.stop_all()


def shown(pipeline: Pipeline) -> str:
    return pipeline.demo.log.read_text()


def lines_of_the_app(pipeline: Pipeline) -> list[str]:
    """Return the lines about single visitors."""
    return re.findall(r"sample_app\.1 \| (.* -> .*)$", shown(pipeline), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_is_answered_and_a_retraining_completes(pipelines, name):
    pipeline = pipelines[name]
    requests = {m["request_id"] for m in pipeline.messages("app_messages") if "data" in m}
    replies = pipeline.replies()
    assert len(requests) == len(replies) == 60
    assert {reply["request_id"] for reply in replies} == requests
    assert not any("error" in reply for reply in replies)
    announced = pipeline.messages("retrain_topic")
    assert any("training_completed" in message for message in announced)
    assert not any("training_failed" in message for message in announced)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("levels", r"size \d+\.0, weight None, color \w+ -> [012] [01]\.\d\d; (right|wrong)"),
        ("rents", r"area \d+, floor \d -> [\d,]+\.\d\d; (off by \S+|outcome known later)"),
        ("colors", r"color \w+ -> [01]\.\d\d, (warn|wait); (right|wrong)"),
    ],
)
def test_the_sample_app_shows_each_answer(pipelines, name, line):
    lines = lines_of_the_app(pipelines[name])
    assert len(lines) == 60
    assert [each for each in lines if not re.fullmatch(line, each)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "quality"),
    [
        ("levels", r"accuracy so far [01]\.\d{3} \(60 known outcomes\)"),
        ("rents", r"mean absolute error so far \d+\.\d\d \(\d\d known outcomes\)"),
        ("colors", r"accuracy so far [01]\.\d{3} \(60 known outcomes\)"),
    ],
)
def test_the_sample_app_sums_up(pipelines, name, quality):
    last = rf"60 requests sent, 0 not answered, 0 errors, model \d+, {quality}\.$"
    assert re.search(last, shown(pipelines[name]), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("levels", r"accuracy of 60 answers *│ [01]\.\d{3} \(95 %: .* logloss \d\.\d{3} "),
        ("rents", r"absolute error of \d\d answers *│ \d+\.\d\d \(95 %: .*, squared [\d,]+ "),
        ("colors", r"accuracy of 60 answers *│ [01]\.\d{3} \(95 %: .* logloss \d\.\d{3} "),
    ],
)
def test_the_summary_has_the_figures_of_the_target(pipelines, name, row):
    assert re.search(row, shown(pipelines[name]))


@pytest.mark.slow
def test_a_model_has_learned_something(pipelines):
    def sent(name: str) -> Iterator[tuple[dict, dict]]:
        replies = {reply["request_id"]: reply for reply in pipelines[name].replies()}
        for message in pipelines[name].messages("app_messages"):
            if "data" in message:
                yield message["data"], replies[message["request_id"]]

    levels = [reply["prediction"] == data["level"] for data, reply in sent("levels")]
    assert sum(levels) > 40
    assert all(abs(reply["prediction"] - 10 * data["area"]) < 500 for data, reply in sent("rents"))
    assert all(
        (reply["probability"] > 0.5) == (data["color"] == "red") for data, reply in sent("colors")
    )


@pytest.mark.slow
def test_requests_and_outcomes_have_the_fields_of_the_data_set(pipelines):
    fields = {
        name: {tuple(m["data"]) for m in pipelines[name].messages("app_messages") if "data" in m}
        for name in NAMES
    }
    assert fields == {
        "levels": {("size", "color", "level")},
        "rents": {("area", "floor")},  # the outcomes come later
        "colors": {("color", "heat")},
    }
    outcomes = pipelines["rents"].messages("outcomes_topic")
    assert len(outcomes) > 40
    assert all(200 / 2 < message["outcome"] < 2500 for message in outcomes)
    [several] = {tuple(reply) for reply in pipelines["levels"].replies()}
    assert several == ("request_id", "prediction", "model_id", "probabilities")
    assert {tuple(r["probabilities"]) for r in pipelines["levels"].replies()} == {("0", "1", "2")}
    assert {tuple(r) for r in pipelines["rents"].replies()} == {
        ("request_id", "prediction", "model_id")
    }


READ_REPLIES = """
import sys
from utils.answers import label_of, probability_of, scores_of, text_of
from utils.messages import decode_reply
for line in sys.stdin.buffer:
    reply = decode_reply(line)
    print(reply and (label_of(reply), probability_of(reply), scores_of(reply), text_of(reply)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "replies"),
    [
        (
            "levels",
            {
                '"prediction": 2, "probabilities": {"0": 0.1, "2": 0.9}': (
                    (2, 0.9, [0.1, 0.0, 0.9], "2 0.90")
                ),
                '"prediction": 1': (1, None, [0.0, 1.0, 0.0], "1"),
                '"prediction": 0, "probabilities": {"9": 1}': (0, None, [0.0, 0.0, 0.0], "0"),
                '"prediction": 3': None,  # another class, or another kind of target
                '"prediction": "1"': None,
                '"prediction": 0.5': None,
                '"prediction": 1, "probabilities": {"1": 1.5}': None,
            },
        ),
        (
            "rents",
            {
                '"prediction": 1250000': (1250000.0, None, 1250000.0, "1,250,000.00"),
                '"prediction": -0.012345': (-0.012345, None, -0.012345, "-0.0123"),
                '"prediction": "high"': None,
                '"prediction": 1e999': None,
            },
        ),
        (
            "colors",
            {
                '"prediction": 1.0, "probability": 0.75': ("hot", 0.75, 0.75, "0.75"),
                '"prediction": 0.0': ("cold", None, 0.0, "0.00"),
                '"prediction": "hot"': None,
                '"prediction": 2.0': None,
            },
        ),
    ],
)
def test_replies_are_read_by_the_kind_of_target_and_others_ignored(pipelines, name, replies):
    sent = "".join(f'{{"request_id": "a", {fields}}}\n' for fields in replies)
    read = subprocess.run(
        [sys.executable, "-c", READ_REPLIES],
        cwd=pipelines[name].project,
        env=os.environ | pipelines[name].environment,
        input=sent.encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    shown = dict(zip(replies, map(literal_eval, read.stdout.decode().splitlines()), strict=True))
    assert shown == replies
