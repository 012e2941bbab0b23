"""Late outcomes, champion and challenger, rollback: the real scripts on a real broker."""

import json

import pytest

from tests.harness.pipeline import wait_until
from tests.test_faults import copy_of_the_first_model, set_counters, stored, train_one_model
from tests.test_pipeline import answered_once
from train.store.schema import SEGMENT_ROWS
from utils.datasets import dataset
from utils.model_store.registry import Registry


def card(pipeline, model_id: int) -> dict:
    return json.loads((pipeline.folder / "models" / f"model_{model_id}.json").read_text())


def request_without_outcome(pipeline, row: int) -> tuple[str, str]:
    data = dict(pipeline.rows[row % len(pipeline.rows)])
    outcome, request_id = data.pop(dataset.target.name), f"late-{row}"
    pipeline.send({"request_id": request_id, "data": data})
    return request_id, outcome


def report(pipeline, request_id: str, outcome: str) -> None:
    pipeline.send({"request_id": request_id, "outcome": outcome}, topic="outcomes_topic")


@pytest.mark.slow
def test_retraining_waits_for_the_outcomes_across_a_kill(pipeline):
    pipeline.predictor()
    trainer = pipeline.trainer()
    late = [request_without_outcome(pipeline, row) for row in range(50)]
    pipeline.wait_for_replies(50)
    for request_id, outcome in late[:10]:
        report(pipeline, request_id, outcome)
    trainer.kill()
    for request_id, outcome in reversed(late[5:24]):  # some of them again
        report(pipeline, request_id, outcome)
    report(pipeline, "nobody", ">50K")
    pipeline.send(b"{}", topic="outcomes_topic")
    trainer = pipeline.trainer()
    pipeline.wait_for_output(trainer, "Put aside an invalid message: ")
    assert [m for m in pipeline.messages("retrain_topic") if "retrain" not in m] == []
    report(pipeline, *late[24])
    done = pipeline.wait_for_control(lambda ms: "training_completed" in ms[-1])[-1]
    assert (done["observations"], done["retrain_requests_covered"]) == (25, 1)
    for request_id, outcome in late[25:]:
        report(pipeline, request_id, outcome)
    done = pipeline.wait_for_control(lambda ms: ms[-1].get("retrain_requests_covered") == 2)[-1]
    assert done["observations"] == 50


REASONS = {
    b"{}": "request_id: is missing",
    b"\xff": "not valid JSON: ",
    b'{"request_id": "a"}': "outcome: is missing",
    b'{"request_id": "a", "outcome": "rich"}': "outcome: expected one of ",
    b'{"request_id": 1, "outcome": ">50K"}': "request_id: expected a string, got 1",
    b'{"prediction": 1.0}': "message: expected an outcome",
}


def test_outcomes_that_can_not_be_understood_are_dead_letters_with_their_reason(pipeline):
    trainer = pipeline.trainer()
    for value in REASONS:
        pipeline.send(value, topic="outcomes_topic", key=b"key")
    wait_until(lambda: len(pipeline.records("dead_letter_topic")) == len(REASONS))
    letters = pipeline.records("dead_letter_topic")
    for offset, letter in enumerate(letters):
        about = dict(letter.headers)
        assert letter.key == b"key"
        assert about["reason"].decode().startswith(REASONS[letter.value]), about
        assert about["topic"].decode() == f"{pipeline.prefix}outcomes_topic"
        assert (about["partition"], about["offset"]) == (b"0", b"%d" % offset)
    assert trainer.log.read_text().count("Put aside") == 1


@pytest.mark.slow
def test_letters_of_outcomes_are_replayed_to_their_topic_and_letters_of_other_topics_are_not(
    pipeline,
):
    pipeline.trainer()
    pipeline.send(b"no outcome", topic="outcomes_topic", key=b"key")
    pipeline.producer.flush()
    wait_until(lambda: pipeline.records("dead_letter_topic"))
    foreign = [("topic", b"elsewhere"), ("partition", b"0")]
    pipeline.send(b"foreign", topic="dead_letter_topic", headers=foreign)
    pipeline.producer.flush()
    replayed = pipeline.run("tools.dead_letters", "replay").stdout.decode()
    assert replayed.endswith("Replayed 1 letters.\n")
    assert replayed.count("did not come from a partition of") == 1
    again = pipeline.records("outcomes_topic")
    assert [(r.partition, r.key, r.value) for r in again] == [(0, b"key", b"no outcome")] * 2
    letters = wait_until(lambda: [r for r in pipeline.records("dead_letter_topic") if r.value][2:])
    assert [letter.value for letter in letters] == [b"no outcome"]  # it was not corrected
    assert pipeline.run("tools.dead_letters", "list").stdout.count(b"yes") == 2


@pytest.mark.slow
def test_a_flood_of_bad_outcomes_and_a_kill_lose_no_letter_and_stop_nothing(pipeline):
    trainer = pipeline.trainer()
    for _ in range(30_000):
        pipeline.send(b"no outcome", topic="outcomes_topic")
    pipeline.producer.flush()
    wait_until(lambda: pipeline.records("dead_letter_topic"), what="a dead letter")
    trainer.kill()
    trainer = pipeline.trainer()
    report(pipeline, "late", ">50K")
    seen = "SELECT count(*) FROM waiting"
    wait_until(lambda: stored(pipeline, seen) == 1, what="the outcome behind the flood")
    letters = pipeline.records("dead_letter_topic")
    print(f"{len(letters)} letters for 30,000 outcomes and one kill")
    assert {int(dict(letter.headers)["offset"]) for letter in letters} == set(range(30_000))
    assert len(letters) <= 30_000 + 4_000  # those of one poll may be there twice
    assert trainer.log.read_text().count("Put aside") <= 2


@pytest.mark.slow
def test_a_store_of_more_than_observations_keep_says_shrinks(pipeline):
    pipeline.create_topic("app_messages")
    for row in range(30_000):
        pipeline.request(row)
    pipeline.producer.flush()
    every, deleted = (
        f"SELECT value FROM counters WHERE name = '{name}'"  # noqa: S608
        for name in ("observations", "observations_deleted")
    )
    sizes = []
    for kept, least in [("all", 0), ("5000", 25_000 - SEGMENT_ROWS)]:
        trainer = pipeline.trainer(OBSERVATIONS_KEEP=kept)
        wait_until(lambda: stored(pipeline, every) == 30_000, what="30,000 observations")
        wait_until(lambda least=least: stored(pipeline, deleted) >= least, what="fewer of them")
        trainer.terminate()
        assert trainer.wait(timeout=30) == 0
        sizes.append((pipeline.folder / "data" / "observations.db").stat().st_size)
    pipeline.trainer(
        OBSERVATIONS_KEEP="5000"
    )  # pages are given back at a start, then once a minute
    store = pipeline.folder / "data" / "observations.db"
    wait_until(lambda: store.stat().st_size < 0.6 * sizes[0], timeout=90, what="a smaller file")


@pytest.mark.slow
def test_somebody_asks_for_a_training_by_hand(pipeline):
    asked = pipeline.start("trainer.py", "--now")
    assert asked.wait(timeout=60) == 0
    assert "Asked for a training" in asked.log.read_text()
    pipeline.trainer()
    done = pipeline.wait_for_control(lambda ms: "training_completed" in ms[-1])[-1]
    assert (done["observations"], done["retrain_requests_covered"]) == (0, 0)


@pytest.mark.slow
def test_a_drift_asks_for_a_training_ahead_of_the_count(pipeline):
    pipeline.trainer()
    pipeline.send({"retrain": True, "now": True, "why": "a drift"}, topic="retrain_topic")
    done = pipeline.wait_for_control(lambda ms: "training_completed" in ms[-1])[-1]
    assert (done["observations"], done["retrain_requests_covered"]) == (0, 0)


@pytest.mark.slow
def test_a_model_is_promoted_by_hand_under_load(pipeline):
    predictor, request_ids = train_one_model(pipeline)
    request_ids += pipeline.requests(300)
    pipeline.run("tools.models", "promote", "0")
    pipeline.wait_for_output(predictor, "Model 0 answers")
    request_ids += pipeline.requests(20)
    replies = pipeline.wait_for_replies(len(request_ids))
    assert answered_once(request_ids, replies)
    assert replies[-1]["model_id"] == 0
    listed = pipeline.run("tools.models", "list").stdout
    assert b"0 * " in listed
    assert json.loads(pipeline.run("tools.models", "show", "1").stdout)["parent"] == 0
    assert b"promoted: " in listed
    registry = Registry(pipeline.folder / "models")
    with_anchor = registry.card(1)
    with_anchor.anchor = 0
    registry.write_card(with_anchor)
    pipeline.run("tools.models", "promote", "1")
    assert card(pipeline, 1)["anchor"] is None  # it stays, although model 0 may be better
    missing = pipeline.run("tools.models", "promote", "7", code=1)
    assert missing.stderr == b"There is no model 7: see list\n"


@pytest.mark.slow
def test_a_promotion_that_was_killed_before_its_announcement_is_announced(pipeline):
    predictor = pipeline.predictor()
    pipeline.trainer()
    pipeline.requests(25)
    pipeline.wait_for_output(predictor, "Model 1 answers")
    (pipeline.folder / "models" / "champion.json").write_text('{"model_id": 0}')
    pipeline.wait_for_output(predictor, "Model 0 answers")


@pytest.mark.slow
@pytest.mark.parametrize("promote", ["unless-worse", "always"])
def test_a_poisoned_batch(pipeline, promote):
    every = {"RETRAIN_EVERY": "500", "TRAIN_WINDOW": "1000", "PROMOTE": promote}
    predictor = pipeline.predictor(**every)
    pipeline.trainer(**every)
    for batch in range(1, 6):
        for number in range(500):
            row = pipeline.rows[batch * 500 + number]
            if batch == 5:
                name = dataset.target.name
                row = row | {name: dataset.target.changed(row[name])}
            pipeline.send({"request_id": f"{batch}-{number}", "data": row})
        pipeline.producer.flush()

        def covered(messages, batch=batch):
            return messages[-1].get("retrain_requests_covered") == batch

        last = pipeline.wait_for_control(covered)[-1]
    models = pipeline.folder / "models"
    champion = json.loads((models / "champion.json").read_text())["model_id"]
    if promote == "always":
        assert "training_completed" in last
        assert champion == last["model_id"]
        pipeline.wait_for_output(predictor, f"Model {champion} answers")
        assert card(pipeline, champion)["why"].startswith("PROMOTE=always; worse by ")
        assert last["why"] == card(pipeline, champion)["why"]
        assert card(pipeline, champion)["anchor"] is None
    else:
        assert last["training_rejected"].startswith("worse by ")
        assert last["judge"]["challenger"]["logloss"] > last["judge"]["champion"]["logloss"]
        assert champion < last["model_id"]
        assert card(pipeline, last["model_id"])["decision"] == "rejected"  # kept for inspection
        pipeline.requests(1)
        reply = pipeline.wait_for_replies(2_501)[-1]
        assert reply["model_id"] == champion


@pytest.mark.slow
def test_a_promotion_by_hand_during_a_training_wins(pipeline):
    """Only what is on disk counts: a complete model 1, and a champion that is not its parent."""
    predictor, _ = train_one_model(pipeline)
    copy_of_the_first_model(pipeline, 5)
    (pipeline.folder / "models" / "champion.json").write_text('{"model_id": 5}')
    set_counters(pipeline, training_model_id=1, training_covers=1, retrain_requests_covered=0)
    pipeline.trainer()
    rejected = pipeline.wait_for_control(lambda ms: "training_rejected" in str(ms[-2:]))
    reasons = [message.get("training_rejected", "") for message in rejected]
    assert any("model 5 was promoted during the training" in reason for reason in reasons)
    assert card(pipeline, 1)["decision"] == "rejected"
    pipeline.wait_for_output(predictor, "Model 5 answers")
