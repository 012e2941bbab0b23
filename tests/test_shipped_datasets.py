"""`make demo DATASET=...` with the data sets that ship with the project, beside the default one."""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.brokers import QUICK, initialize
from tests.harness.pipeline import Pipeline
from utils.datasets.shop import dataset as shop
from utils.settings import settings

pytestmark = pytest.mark.slow
NAMES = ("shop", "diabetes")
MESSAGES = 60
SETTINGS = {"RETRAIN_EVERY": "50", "TRAIN_WINDOW": "3000"}  # one training, a quick one


@pytest.fixture(scope="module")
def demos(broker, tmp_path_factory) -> Iterator[dict[str, Pipeline]]:
    """A pipeline for each data set, on which the demo has been run, side by side."""
    folders, pipelines = {name: tmp_path_factory.mktemp(name) for name in NAMES}, {}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: initialize(folders[name], *QUICK, DATASET=name), NAMES))
    try:
        for name, folder in folders.items():
            prefix = f"t{os.urandom(4).hex()}-"
            pipeline = Pipeline(settings.kafka_host, prefix, folder, DATASET=name, **SETTINGS)
            options = ["--messages", str(MESSAGES), "--interval", "0.05", "--outcome-delay", "1"]
            pipeline.demo = pipeline.start("-m", "tools.demo", *options)
            pipelines[name] = pipeline
        for pipeline in pipelines.values():
            assert pipeline.demo.wait(timeout=150) == 0, pipeline.demo.log.read_text()
        yield pipelines
    finally:
        for pipeline in pipelines.values():
            pipeline.stop_all()


@pytest.mark.parametrize(
    ("name", "line", "loss"),
    [
        (
            "shop",
            r"item-\d\d, \d+\.\d\d -> (ignored|liked|basket|bought) [01]\.\d\d, "
            r"(show another one|show more like it|offer free shipping|reserve one); .*",
            r"accuracy of \d\d answers *│ [01]\.\d+ \(.*, logloss \d\.\d+ ",
        ),
        (
            "diabetes",
            r"\d\d years, BMI [\d.]+ -> [\d.]+, see again in a (month|year); .*",
            r"absolute error of \d\d answers *│ \d+\.\d+ \(.*, squared [\d,]+ ",
        ),
    ],
)
def test_the_demo_shows_each_answer_and_sums_up(demos, name, line, loss):
    output = demos[name].demo.log.read_text()
    lines = re.findall(r"sample_app\.1 \| (.* -> .*)$", output, re.MULTILINE)
    assert len(lines) == MESSAGES
    assert [each for each in lines if not re.fullmatch(line, each)] == []
    assert re.search(loss, output)


@pytest.mark.parametrize("name", NAMES)
def test_each_request_has_one_answer_and_a_training_completes(demos, name):
    requests = [m for m in demos[name].messages("app_messages") if "data" in m]
    replies = demos[name].replies()
    assert len(requests) == len(replies) == MESSAGES
    assert {m["request_id"] for m in requests} == {reply["request_id"] for reply in replies}
    assert not any("error" in reply for reply in replies)
    announced = demos[name].messages("retrain_topic")
    assert any("training_completed" in message for message in announced)
    assert not any("training_failed" in message for message in announced)


def test_the_shops_messages_have_its_fields_and_nothing_hidden(demos):
    names, labels = set(shop.names), list(shop.target.labels)
    sent = [set(m["data"]) for m in demos["shop"].messages("app_messages") if "data" in m]
    assert all(each in (names, names - {"discount"}) for each in sent)
    for reply in demos["shop"].replies():
        assert list(reply) == ["request_id", "prediction", "model_id", "probabilities"]
        assert list(reply["probabilities"]) == labels
        assert sum(reply["probabilities"].values()) == pytest.approx(1)
        assert reply["prediction"] == max(labels, key=reply["probabilities"].get)
    outcomes = {m["outcome"] for m in demos["shop"].messages("outcomes_topic")}
    assert "ignored" in outcomes
    assert outcomes <= set(labels)


def test_a_patients_answer_is_a_number(demos):
    for reply in demos["diabetes"].replies():
        assert list(reply) == ["request_id", "prediction", "model_id"]
        assert 0 < reply["prediction"] < 400
