"""`make clean`: what it deletes, and when it refuses to."""

import signal

import pytest

from tests.harness.pipeline import Pipeline
from tools import clean, local_kafka
from tools.kafka_install import BrokerError
from utils.files import ROOT
from utils.kafka_client.connection import make_admin


def topics_and_groups(pipeline) -> set[str]:
    admin = make_admin()
    names = [*admin.list_topics(), *(group["group_id"] for group in admin.list_groups())]
    admin.close()
    return {name for name in names if name.startswith(pipeline.prefix)}


def refusal(pipeline) -> str:
    return pipeline.run("tools.clean", code=1).stderr.decode()


def stop(process) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == 0


@pytest.mark.slow
def test_it_deletes_all_but_other_pipelines_and_the_trials(pipeline):
    other = Pipeline(pipeline.host, f"o{pipeline.prefix}", pipeline.folder)
    other.create_topic("outcomes_topic")
    predictor, trainer = pipeline.predictor(RETRAIN_EVERY="10"), pipeline.trainer()
    pipeline.requests(15)
    pipeline.wait_for_replies(15)
    assert "A trainer works on " in refusal(pipeline)
    stop(trainer)
    group = f"The group {pipeline.prefix}predictors has running members (predictor-0)"
    assert refusal(pipeline).startswith(group)
    assert predictor.poll() is None
    stop(predictor)
    (pipeline.folder / "data" / "attempt-7").mkdir()
    pipeline.run("monitor", "--once")
    # The tests' Kafka was not started in .kafka: it may be somebody else's.
    assert "was not started from here" in refusal(pipeline)
    assert f"{pipeline.prefix}predictors" in topics_and_groups(pipeline)
    said = pipeline.run("tools.clean", "--yes").stdout.decode()
    assert f"{pipeline.prefix}app_messages, {pipeline.prefix}dead_letter_topic" in said
    assert topics_and_groups(pipeline) == set()
    assert topics_and_groups(other) == {f"{other.prefix}outcomes_topic"}
    left = {
        path.name for folder in ("data", "models") for path in (pipeline.folder / folder).iterdir()
    }
    assert {name for name in left if "lock" not in name and not name.startswith("tr")} == set()
    assert any(name.startswith("tr") for name in left)  # the trials
    other.stop_all()

    pipeline.run("initialize", "--max-evals", "1")
    pipeline.predictor(RETRAIN_EVERY="10")
    pipeline.requests(15)
    pipeline.wait_for_replies(15)
    assert [m["batch_id"] for m in pipeline.messages("retrain_topic")] == [1]  # counted from 0


def test_where_there_is_nothing_it_says_so(pipeline):
    assert b"there were none" in pipeline.run("tools.clean").stdout


def test_without_kafka_it_says_what_it_keeps(tmp_path):
    host = f"localhost:{local_kafka.free_port()}"
    said = local_kafka.delete_data(host, tmp_path)
    assert f"No Kafka runs at {host}" in said
    assert "its topics are kept, and a trainer would learn from them again: start it" in said


@pytest.mark.parametrize(
    "hosts", ["192.0.2.1:9092", "localhost:9092, 192.0.2.1:9092", "[2001:db8::1]:1"]
)
def test_another_machine_is_refused(hosts):
    with pytest.raises(SystemExit, match="is another machine: delete topics there"):
        clean.require_loopback(hosts)


@pytest.mark.parametrize("hosts", ["localhost:9092", "127.0.0.1:1, 127.0.0.2:2"])
def test_this_machine_is_not(hosts):
    clean.require_loopback(hosts)


@pytest.mark.slow
def test_data_of_a_broker_that_does_not_run_is_deleted(tmp_path):
    host, another = (f"localhost:{local_kafka.free_port()}" for _ in range(2))
    assert "there is no data" in local_kafka.delete_data(host, tmp_path)
    (tmp_path / "jars").symlink_to(ROOT / ".kafka" / "jars")
    local_kafka.start(host, tmp_path)
    with pytest.raises(BrokerError, match=f"no answer at {another}, but a broker for {host} runs"):
        local_kafka.delete_data(another, tmp_path)
    local_kafka.stop(tmp_path)
    assert "there is no data" in local_kafka.delete_data(another, tmp_path)
    assert (tmp_path / "data").exists()
    assert local_kafka.delete_data(host, tmp_path).startswith("Deleted ")
    assert not (tmp_path / "data").exists()
