"""What Kafka does to its own data: a log that lost its end, a new topic, expired offsets."""

import os
import random
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from kafka import KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError

from tests.harness.pipeline import wait_until
from tools import local_kafka

if TYPE_CHECKING:
    from tests.chaos.run import Chaos


def kill_broker(chaos: "Chaos", *numbers: int) -> None:
    """Kill Kafka, or these of its brokers, and return when its processes have ended."""
    if chaos.pipeline.cluster:
        for number in numbers:
            chaos.pipeline.cluster.kill(number)
        return
    folder = chaos.pipeline.folder / "kafka"
    os.kill(int((folder / "broker.pid").read_text()), signal.SIGKILL)
    local_kafka.stop(folder)


def cut_logs(chaos: "Chaos", chance: random.Random) -> None:
    """Remove the end of each partition of app_messages, as a power cut does; Kafka is not running.

    Kafka syncs a record long after it has acknowledged it, as other brokers have it too.
    """
    data = chaos.pipeline.folder / "kafka" / "data"
    for folder in sorted(data.glob(f"{chaos.pipeline.prefix}app_messages-[0-9]*")):
        segment = max(folder.glob("*.log"))
        _cut(segment, chance.randrange(200_000))


def _cut(segment: Path, number: int) -> None:
    size = segment.stat().st_size
    os.truncate(segment, max(size - number, size // 2))


def make_topic_anew(chaos: "Chaos") -> float:
    """Audit app_messages, delete it and create it again; return when it was there again."""
    chaos.audit.audit_answers(may_wait=True)
    topic = chaos.pipeline.prefix + "app_messages"
    with closing(KafkaAdminClient(bootstrap_servers=chaos.pipeline.host)) as admin:
        admin.delete_topics([topic])
        wait_until(lambda: _created(admin, topic, chaos.options.partitions), what=f"a new {topic}")
    return time.time()


def _created(admin: KafkaAdminClient, topic: str, partitions: int) -> bool:
    try:
        admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": -1}})
    except TopicAlreadyExistsError:  # it is still being deleted
        return False
    return True


def delete_group(chaos: "Chaos") -> None:
    """Delete the predictors' group with its offsets, as Kafka does when they expire."""
    group = chaos.pipeline.prefix + "predictors"
    with closing(KafkaAdminClient(bootstrap_servers=chaos.pipeline.host)) as admin:
        wait_until(lambda: _deleted(admin, group), what="an empty group")


def _deleted(admin: KafkaAdminClient, group: str) -> bool:
    # An error until the sessions of its killed members have timed out.
    return admin.delete_groups([group])[group] in ("OK", "GroupIdNotFoundError")
