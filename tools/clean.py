"""Deletes what the pipeline has learned and stored, for a fresh start.

    python -m tools.clean

Deletes the models, the trainer's store, the unpacked data, and the topics and consumer groups of
this TOPIC_PREFIX. Kafka goes on running; if it does not run, the data of the one that `make kafka`
starts is deleted. Does nothing while a predictor or a trainer runs, or if KAFKA_HOST is another
machine. The trials of earlier tunings are kept.
"""

import ipaddress
import socket
import time
from contextlib import closing

from kafka.errors import KafkaTimeoutError

from tools.dead_letters import REPLAY_GROUP
from tools.local_kafka import FOLDER, BrokerError, delete_data
from train.observations import STORE
from train.training_process import remove_attempts
from utils.console import say
from utils.datasets.base import SHIPPED
from utils.files import locked
from utils.kafka_client.connection import is_reachable, make_admin
from utils.kafka_client.group import group_members
from utils.kafka_client.topics import (
    APP_MESSAGES,
    DEAD_LETTER_TOPIC,
    OUTCOMES_TOPIC,
    PREDICTOR_GROUP,
    RETRAIN_TOPIC,
)
from utils.script import command_line, run
from utils.settings import settings

TOPICS = {APP_MESSAGES, RETRAIN_TOPIC, OUTCOMES_TOPIC, DEAD_LETTER_TOPIC}
GROUPS = {PREDICTOR_GROUP, REPLAY_GROUP}
MODEL_FILES = ("model_*", ".model_*", "champion.json", ".champion.json.*")
DELETE_TIMEOUT = 10  # seconds


def require_loopback(hosts: str) -> None:
    """Raise SystemExit if one of the hosts ("name:port", separated by commas) is elsewhere."""
    for host in hosts.split(","):
        name = host.strip().rpartition(":")[0].strip("[]")
        addresses = {info[4][0] for info in socket.getaddrinfo(name, None)}
        if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
            raise SystemExit(
                f"KAFKA_HOST={hosts} is another machine: delete topics there with Kafka's own tools"
            )


def delete_topics() -> str:
    """Delete the pipeline's groups and topics; SystemExit while a group has members."""
    with closing(make_admin()) as admin:
        existing = set(admin.list_topics())
        groups = {group["group_id"] for group in admin.list_groups()} & GROUPS
        for group in groups:
            if members := group_members(group):
                names = ", ".join(sorted(map(str, members)))
                raise SystemExit(
                    f"{names} of the group {group} is running: stop it first "
                    "(a killed one leaves its group after 6 s)"
                )
        if groups:
            admin.delete_groups(sorted(groups))
        if found := sorted(existing & TOPICS):
            admin.delete_topics(found)
        deadline = time.monotonic() + DELETE_TIMEOUT
        while TOPICS & set(admin.list_topics()):
            if time.monotonic() > deadline:
                raise KafkaTimeoutError("the topics are not deleted yet")
            time.sleep(0.1)
    return f"Deleted the topics at {settings.kafka_host}: {', '.join(found) or 'there were none'}."


def delete_files() -> None:
    """Delete the models, the store, and the unpacked data; lock files stay."""
    remove_attempts()
    data = [path for name in SHIPPED.glob("*.xz") for path in settings.data_dir.glob(name.stem)]
    store = settings.data_dir.glob(f"{STORE.name}*")
    models = [path for pattern in MODEL_FILES for path in settings.models_dir.glob(pattern)]
    for path in (*data, *store, *models):
        path.unlink(missing_ok=True)


def main() -> None:
    """Delete everything, or say in one sentence why not and exit with 1."""
    command_line(__doc__, "tools.clean").parse_args()
    require_loopback(settings.kafka_host)

    def refuse() -> None:
        raise SystemExit(f"A trainer works on {settings.data_dir}: stop it first")

    with locked(STORE.with_suffix(".lock"), wait=refuse):
        try:
            say(delete_topics() if is_reachable() else delete_data(settings.kafka_host, FOLDER))
        except BrokerError as error:
            raise SystemExit(str(error)) from None
        delete_files()
    say("Deleted the models, the observations and the unpacked data.")


if __name__ == "__main__":
    run(main)
