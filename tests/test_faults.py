"""What happens when something is killed, frozen, gone or started twice."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from kafka import KafkaAdminClient, TopicPartition

from tests.harness.pipeline import Pipeline, wait_until
from tests.test_pipeline import answered_once
from tools import local_kafka
from utils.files import write_atomically


@pytest.fixture
def own_broker(pipeline, tmp_path):
    """The pipeline on a broker of its own, which the test may kill; the value is its folder."""
    folder = tmp_path / "kafka"
    host = f"localhost:{local_kafka.free_port()}"
    local_kafka.start(host, folder)
    own = Pipeline(host, pipeline.prefix, pipeline.folder)
    yield own, folder
    own.stop_all()
    local_kafka.stop(folder)


def signal_broker(folder, number):
    os.kill(int((folder / "broker.pid").read_text()), number)


@pytest.mark.slow
def test_the_older_of_two_with_one_name_stops_with_code_3(pipeline):
    older = pipeline.predictor()
    first = pipeline.requests(50)
    pipeline.wait_for_replies(50)
    newer = pipeline.predictor()
    second = pipeline.requests(50)
    assert older.wait(timeout=30) == 3, older.log.read_text()
    assert "Another predictor with PREDICTOR_ID=predictor-0" in older.log.read_text()
    third = pipeline.requests(50)
    replies = pipeline.wait_for_replies(150)
    assert answered_once(first + second + third, replies)
    assert newer.poll() is None


@pytest.mark.slow
def test_the_older_one_stops_also_when_nothing_is_to_be_answered(pipeline):
    older = pipeline.predictor()
    pipeline.requests(1)
    pipeline.wait_for_replies(1)
    pipeline.predictor()
    assert older.wait(timeout=30) == 3, older.log.read_text()


@pytest.mark.slow
def test_a_clean_stop_gives_the_partitions_to_the_others_at_once(pipeline):
    pipeline.create_topic("app_messages", partitions=2)
    first = pipeline.predictor(PREDICTOR_ID="a")
    pipeline.predictor(PREDICTOR_ID="b")
    pipeline.requests(100)
    pipeline.wait_for_replies(100)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=10) == 0
    stopped = time.monotonic()
    pipeline.requests(100)
    pipeline.wait_for_replies(200, timeout=30)
    assert time.monotonic() - stopped < 5.5  # a session would take 6 s to time out


@pytest.mark.slow
def test_a_predictor_that_is_killed_for_good_is_replaced_by_the_others(pipeline):
    pipeline.create_topic("app_messages", partitions=2)
    first = pipeline.predictor(PREDICTOR_ID="a")
    pipeline.predictor(PREDICTOR_ID="b")
    request_ids = pipeline.requests(100)
    pipeline.wait_for_replies(100)
    request_ids += pipeline.requests(200)
    first.kill()
    request_ids += pipeline.requests(200)
    replies = pipeline.wait_for_replies(500, timeout=30)
    assert answered_once(request_ids, replies)


@pytest.mark.slow
def test_a_predictor_too_many_stands_by_and_takes_over(pipeline):
    for name in "ab":
        pipeline.predictor(PREDICTOR_ID=name)
    request_ids = pipeline.requests(50)
    pipeline.wait_for_replies(50)
    for name, predictor in zip("ab", pipeline.processes[:2], strict=True):  # one of the two idles
        predictor.kill()
        request_ids += pipeline.requests(50)
        replies = pipeline.wait_for_replies(len(request_ids), timeout=30)
        pipeline.predictor(PREDICTOR_ID=name)
    assert answered_once(request_ids, replies)


@pytest.mark.slow
def test_frozen_for_longer_than_every_timeout(pipeline):
    predictor = pipeline.predictor()
    request_ids = pipeline.requests(300)
    pipeline.wait_for_replies(1)
    predictor.send_signal(signal.SIGSTOP)
    request_ids += pipeline.requests(300)
    time.sleep(50)  # the fault itself: longer than session, transaction and watchdog wait
    predictor.send_signal(signal.SIGCONT)
    replies = pipeline.wait_for_replies(600)
    assert answered_once(request_ids, replies)
    batch_ids = [m["batch_id"] for m in pipeline.messages("retrain_topic")]
    assert batch_ids == list(range(1, 600 // 25 + 1))


@pytest.mark.slow
def test_the_broker_is_killed_and_comes_back(own_broker):
    pipeline, folder = own_broker
    predictor = pipeline.predictor()
    request_ids = pipeline.requests(300)
    pipeline.wait_for_replies(1)
    signal_broker(folder, signal.SIGKILL)
    local_kafka.start(pipeline.host, folder)
    request_ids += pipeline.requests(300)
    replies = pipeline.wait_for_replies(600)
    assert answered_once(request_ids, replies)
    assert predictor.poll() is None


@pytest.mark.slow
def test_an_outage_is_told_of_and_waited_for(own_broker):
    pipeline, folder = own_broker
    scripts = [pipeline.predictor(), pipeline.trainer()]
    app = pipeline.start("sample_app.py", "--messages", "9", "--interval", "1")
    pipeline.wait_for_output(app, " -> ")
    signal_broker(folder, signal.SIGKILL)
    for script in scripts:
        pipeline.wait_for_output(script, f"does not answer at {pipeline.host} any more: waiting")
    assert app.wait(timeout=60) == 1
    said = app.log.read_text().splitlines()[-1]
    assert said.startswith(f"Kafka does not answer at {pipeline.host} any more; ")
    local_kafka.start(pipeline.host, folder)
    for script in scripts:
        pipeline.wait_for_output(script, "Kafka answers again.")
    request_ids = pipeline.requests(30)
    pipeline.wait_for_output(scripts[1], "Model 1 is")
    replies = [m for m in pipeline.replies() if m["request_id"] in request_ids]
    assert answered_once(request_ids, replies)


@pytest.mark.slow
def test_the_broker_is_frozen(own_broker):
    pipeline, folder = own_broker
    pipeline.predictor()
    request_ids = pipeline.requests(300)
    pipeline.wait_for_replies(1)
    signal_broker(folder, signal.SIGSTOP)
    time.sleep(70)  # the fault itself: longer than every timeout, the watchdog's too
    signal_broker(folder, signal.SIGCONT)
    request_ids += pipeline.requests(300)
    replies = pipeline.wait_for_replies(600)
    assert answered_once(request_ids, replies)


@pytest.mark.parametrize("script", ["predictor.py", "trainer.py"])
def test_a_second_signal_ends_at_once(pipeline, script):
    process = pipeline.predictor() if script == "predictor.py" else pipeline.trainer()
    process.send_signal(signal.SIGSTOP)  # so that both arrive before it can act on the first
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=10) in (130, 143)


def training_child(trainer: subprocess.Popen) -> int | None:
    found = subprocess.run(["pgrep", "-P", str(trainer.pid)], capture_output=True, text=True)
    return int(found.stdout.split()[0]) if found.stdout else None


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_trainer_killed_in_training_leaves_nothing_and_ends_its_work_later(pipeline):
    pipeline.predictor()
    trainer = pipeline.trainer("--max-evals", "100")
    pipeline.requests(30)
    child = wait_until(lambda: training_child(trainer), what="a training child")
    trainer.kill()
    trainer.wait()
    wait_until(lambda: not exists(child), timeout=2, what="the child's end")
    assert not list((pipeline.folder / "data").glob("attempt-*"))
    pipeline.trainer()
    messages = pipeline.wait_for_control(lambda ms: ms[-1].get("training_completed"))
    assert messages[-1]["retrain_requests_covered"] == 1
    assert messages[-1]["model_id"] == 2  # an id is never used twice
    assert sum("training_completed" in m for m in messages) == 1


@pytest.mark.slow
def test_a_training_child_that_is_killed_is_a_failed_training(pipeline):
    pipeline.predictor()
    trainer = pipeline.trainer("--max-evals", "100")
    pipeline.requests(25)
    os.kill(wait_until(lambda: training_child(trainer)), signal.SIGKILL)
    messages = pipeline.wait_for_control(lambda ms: "training_failed" in ms[-1])
    assert "exit code -9" in messages[-1]["training_failed"]
    assert trainer.poll() is None


def set_counters(pipeline, **values):
    store = sqlite3.connect(pipeline.folder / "data" / "observations.db")
    for name, value in values.items():
        store.execute("UPDATE counters SET value = ? WHERE name = ?", (value, name))
    store.commit()
    store.close()


def train_one_model(pipeline):
    """Return the predictor that answers with model 1, and the ids of 25 requests; no trainer."""
    predictor, trainer = pipeline.predictor(), pipeline.trainer()
    request_ids = pipeline.requests(25)
    pipeline.wait_for_output(predictor, "Model 1 answers")
    wait_until(lambda: "is the champion" in trainer.log.read_text())
    trainer.kill()
    trainer.wait()
    return predictor, request_ids


@pytest.mark.slow
def test_killed_between_saving_and_announcing(pipeline):
    """Only what is on disk counts: here, a champion that nobody has been told of."""
    train_one_model(pipeline)
    set_counters(pipeline, training_model_id=1, training_covers=1, retrain_requests_covered=0)
    pipeline.trainer()
    messages = pipeline.wait_for_control(lambda ms: sum("training_completed" in m for m in ms) == 2)
    assert {m["model_id"] for m in messages if "training_completed" in m} == {1}
    assert not (pipeline.folder / "models" / "model_2.json").exists()


@pytest.mark.slow
def test_a_second_trainer_takes_over_at_once(pipeline):
    first = pipeline.trainer()
    second = pipeline.start("trainer.py", "--max-evals", "1")
    pipeline.wait_for_output(second, "Another trainer is running")
    first.kill()
    killed = time.monotonic()
    pipeline.wait_for_output(second, "waits for retrain requests")
    assert time.monotonic() - killed < 10
    pipeline.predictor()
    pipeline.requests(25)
    pipeline.wait_for_control(lambda ms: ms[-1].get("training_completed"))


def announce(pipeline, model_id):
    pipeline.send({"training_completed": True, "model_id": model_id}, topic="retrain_topic")
    pipeline.producer.flush()


def promote(pipeline, model_id):
    """Make a model the champion and announce it, as the trainer does."""
    champion = pipeline.folder / "models" / "champion.json"
    write_atomically(champion, json.dumps({"model_id": model_id}).encode())
    announce(pipeline, model_id)


def copy_of_the_first_model(pipeline, model_id, **card):
    models = pipeline.folder / "models"
    content = (models / "model_0.p").read_bytes()
    (models / f"model_{model_id}.p").write_bytes(content)
    card = json.loads((models / "model_0.json").read_text()) | {"model_id": model_id} | card
    (models / f"model_{model_id}.json").write_text(json.dumps(card))


def test_a_model_that_can_not_be_used_is_reported_and_the_old_one_goes_on(pipeline):
    predictor = pipeline.predictor()
    models = pipeline.folder / "models"
    copy_of_the_first_model(pipeline, 1)
    (models / "model_1.p").write_bytes(b"half")
    copy_of_the_first_model(pipeline, 2, features=["age"])
    copy_of_the_first_model(pipeline, 3, libraries={"lightgbm": "3.0"})
    copy_of_the_first_model(pipeline, 4)
    (models / "model_4.p").unlink()
    copy_of_the_first_model(pipeline, 5)
    for number, model_id in enumerate((1, 2, 3, 4, 10**9)):
        promote(pipeline, model_id)
        wait_until(lambda n=number: predictor.log.read_text().count("Can't use the") == n + 1)
    for model_id in (-1, "../../x", None, [0], 1.5):
        announce(pipeline, model_id)
    pipeline.send(b"\xff not JSON", topic="retrain_topic")
    promote(pipeline, 5)
    pipeline.wait_for_output(predictor, "Model 5 answers from now on")
    output = predictor.log.read_text()
    assert output.count("Can't use the announced model") == 5
    for reason in ("digest", "other columns", "lightgbm 3.0", "model_4.p is missing"):
        assert reason in output
    pipeline.requests(5)
    assert {reply["model_id"] for reply in pipeline.wait_for_replies(5)} == {5}


def test_a_champion_that_does_not_load_at_the_start_is_a_warning(pipeline):
    copy_of_the_first_model(pipeline, 1)
    (pipeline.folder / "models" / "model_0.p").write_bytes(b"half")
    predictor = pipeline.predictor()
    assert "digest" in predictor.log.read_text()
    pipeline.wait_for_output(predictor, "answers with model 1")


@pytest.mark.slow
def test_stopping_under_load_loses_nothing(pipeline):
    predictor, request_ids = pipeline.predictor(), []
    for _ in range(3):
        answered = len(request_ids)
        request_ids += pipeline.requests(500)
        pipeline.wait_for_replies(answered + 1)
        predictor.send_signal(signal.SIGTERM)
        assert predictor.wait(timeout=10) == 0
        predictor = pipeline.start("predictor.py")
    assert answered_once(request_ids, pipeline.wait_for_replies(len(request_ids)))


@pytest.mark.slow
def test_a_disk_that_is_full_is_reported_and_nothing_is_half_written(pipeline):
    """RLIMIT_FSIZE makes every write beyond 64 kB fail, as a full disk does."""
    pipeline.predictor()
    trainer = pipeline.trainer()
    limited = f"ulimit -f 128; exec {sys.executable} trainer.py --max-evals 1"
    trainer.kill()
    trainer.wait()
    trainer = pipeline.start_command("bash", "-c", limited)
    pipeline.requests(25)
    pipeline.wait_for_control(lambda ms: "training_failed" in ms[-1])
    models = pipeline.folder / "models"
    assert sorted(path.name for path in models.iterdir()) == [
        "champion.json",
        "model_0.json",
        "model_0.p",
    ]


@pytest.mark.slow
def test_requests_deleted_before_the_trainer_saw_them_are_counted(pipeline):
    pipeline.predictor(RETRAIN_EVERY="40")
    trainer = pipeline.trainer(RETRAIN_EVERY="40")
    pipeline.requests(10)
    pipeline.wait_for_replies(10)
    wait_until(lambda: stored(pipeline, "SELECT count(*) FROM positions") == 10)
    offset = stored(pipeline, "SELECT max(next_offset) FROM offsets")
    trainer.kill()
    pipeline.requests(20)
    pipeline.wait_for_replies(30)
    topic = TopicPartition(f"{pipeline.prefix}app_messages", 0)
    admin = KafkaAdminClient(bootstrap_servers=pipeline.host)
    admin.delete_records({topic: offset + 15})
    admin.close()
    trainer = pipeline.trainer(RETRAIN_EVERY="40")
    pipeline.wait_for_output(trainer, ": 15 records are gone")
    pipeline.requests(60)
    messages = pipeline.wait_for_control(lambda ms: "training_completed" in ms[-1])
    card = (pipeline.folder / "models" / f"model_{messages[-1]['model_id']}.json").read_text()
    assert json.loads(card)["missed_records"] == 15


def stored(pipeline, query):
    store = sqlite3.connect(pipeline.folder / "data" / "observations.db")
    try:
        return store.execute(query).fetchone()[0]
    finally:
        store.close()
