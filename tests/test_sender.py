"""A trainer that goes on after Kafka was frozen, or has rejected what it sent."""

import signal
import time

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from tests.harness.pipeline import wait_until
from tests.test_faults import own_broker, signal_broker, training_child  # noqa: F401 - a fixture

NEVER_TOO_OLD = str(2**63 - 1)


def accept_records_up_to(pipeline, milliseconds: str) -> None:
    """Set how old a record of retrain_topic may be; none is accepted at 0, as if clocks differed.

    The error is that of a clock that is ahead (message.timestamp.after.max.ms).
    """
    settings = {"message.timestamp.before.max.ms": milliseconds}
    topic = f"{pipeline.prefix}retrain_topic"
    with KafkaAdminClient(bootstrap_servers=pipeline.host) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])


@pytest.mark.slow
def test_a_trainer_whose_announcement_had_a_wrong_time_goes_on(pipeline):
    pipeline.predictor()
    trainer = pipeline.trainer()
    pipeline.requests(25)
    wait_until(lambda: pipeline.messages("retrain_topic"), what="a retrain request")
    accept_records_up_to(pipeline, "0")
    pipeline.wait_for_output(trainer, "InvalidTimestamp", timeout=120)
    promoted = pipeline.run("tools.models", "promote", "1")
    assert b"Model 1 is the champion, but could not be announced" in promoted.stdout
    accept_records_up_to(pipeline, NEVER_TOO_OLD)
    done = pipeline.wait_for_control(lambda ms: "training_completed" in ms[-1])[-1]
    assert (done["model_id"], done["retrain_requests_covered"]) == (1, 1)
    lines = trainer.log.read_text().splitlines()
    assert sum("InvalidTimestamp" in line for line in lines) == 1


@pytest.mark.slow
def test_a_trainer_whose_training_ends_while_kafka_is_frozen_goes_on(own_broker):  # noqa: F811
    pipeline, folder = own_broker
    pipeline.predictor()
    trainer = pipeline.trainer()
    pipeline.requests(25)  # a producer that has sent something before behaves differently
    pipeline.wait_for_control(lambda ms: "training_completed" in ms[-1])
    pipeline.requests(25)
    wait_until(lambda: trainer.log.read_text().count("Retraining") == 2, what="a training")
    wait_until(lambda: training_child(trainer), what="a training child")
    signal_broker(folder, signal.SIGSTOP)
    frozen = time.monotonic()
    time.sleep(85)  # the fault itself: longer than the delivery timeout and a new attempt
    signal_broker(folder, signal.SIGCONT)
    pipeline.wait_for_control(lambda ms: ms[-1].get("retrain_requests_covered") == 2, timeout=90)
    print(f"announced {time.monotonic() - frozen - 85:.1f} s after the end of the freeze")
    assert trainer.poll() is None
