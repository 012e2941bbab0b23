"""Deletes what the pipeline has learned and stored, for a fresh start.

    python -m tools.clean

Deletes the models, the trainer's store, what is kept for audits (replaced models and messages), the
unpacked data, and the topics and consumer groups of this TOPIC_PREFIX. Kafka keeps running; if it
does not run, the data of the one that `make kafka` starts is deleted. Refuses while a predictor is
in its group or a trainer runs, and if KAFKA_HOST is another machine. On a Kafka that `make kafka`
did not start, it deletes topics only with --yes; so it does with models in an object store and with
a store at OBSERVATIONS_URL. If that Kafka does not run, its topics are kept, and the output says
so. The trials of earlier tunings are kept, and what is logged to MLflow.
"""

import ipaddress
import socket
import time
from contextlib import closing

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, KafkaTimeoutError

from monitoring.audit.message_archive import MESSAGES
from monitoring.figures.database import FILE
from monitoring.tracking import mlflow_live
from tools.dead_letters import REPLAY_GROUP
from tools.local_kafka import FOLDER, BrokerError, delete_data, was_started_here
from train.store.one_trainer import delete_store, no_trainer
from train.store.place import STORE, Server
from train.training_process import remove_attempts
from utils.console import say
from utils.datasets import dataset
from utils.kafka_client.connection import is_reachable, make_admin
from utils.kafka_client.group import group_members
from utils.kafka_client.topics import (
    APP_MESSAGES,
    DEAD_LETTER_TOPIC,
    OUTCOMES_TOPIC,
    PREDICTOR_GROUP,
    RETRAIN_TOPIC,
)
from utils.model_store.pruning import delete_all
from utils.model_store.registry import Registry
from utils.script import command_line, run
from utils.settings import settings

TOPICS = {APP_MESSAGES, RETRAIN_TOPIC, OUTCOMES_TOPIC, DEAD_LETTER_TOPIC}
GROUPS = {PREDICTOR_GROUP, REPLAY_GROUP}
DELETE_TIMEOUT = 10  # seconds


def require_loopback(hosts: str) -> None:
    """Raise SystemExit if one of the hosts ("name:port", separated by commas) is elsewhere."""
    for host in hosts.split(","):
        name = host.strip().rpartition(":")[0].strip("[]")
        try:
            addresses = {info[4][0] for info in socket.getaddrinfo(name, None)}
        except OSError as error:
            raise SystemExit(f"KAFKA_HOST={hosts} can't be resolved: {error.strerror}") from None
        if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
            raise SystemExit(
                f"KAFKA_HOST={hosts} is another machine: delete topics there with Kafka's own tools"
            )


def delete_topics(confirmed: bool) -> str:
    """Delete the pipeline's topics, then its groups; say what was done.

    SystemExit while a group has members, or if this Kafka was not started from here and the user
    has not confirmed: programs of somebody else may use topics of these names.
    """
    with closing(make_admin()) as admin:
        topics = sorted(set(admin.list_topics()) & TOPICS)
        groups = sorted({group["group_id"] for group in admin.list_groups()} & GROUPS)
        for group in groups:
            require_no_members(group)
        if topics and not (confirmed or was_started_here(settings.kafka_host, FOLDER)):
            raise SystemExit(
                f"The Kafka at {settings.kafka_host} was not started from here. It has the topics "
                f"{', '.join(topics)}. To delete them: make clean YES=1"
            )
        if topics:
            admin.delete_topics(topics)
            wait_until_deleted(admin)
        # After the topics: without its offsets, a predictor would answer all requests again.
        for group, result in (admin.delete_groups(groups) if groups else {}).items():
            if result != "OK":
                raise KafkaError(f"the group {group} can't be deleted: {result}")
    return f"Deleted the topics at {settings.kafka_host}: {', '.join(topics) or 'there were none'}."


def require_no_members(group: str) -> None:
    """Raise SystemExit, which names the members, if the group has some."""
    if members := group_members(group):
        names = ", ".join(sorted(map(str, members)))
        raise SystemExit(
            f"The group {group} has running members ({names}): stop them first "
            "(a killed one leaves its group after 6 s)"
        )


def wait_until_deleted(admin: KafkaAdminClient) -> None:
    """Return when Kafka lists none of the topics any more; KafkaTimeoutError if it goes on."""
    deadline = time.monotonic() + DELETE_TIMEOUT
    while TOPICS & set(admin.list_topics()):
        if time.monotonic() > deadline:
            raise KafkaTimeoutError("the topics are not deleted yet")
        time.sleep(0.1)


def delete_files() -> None:
    """Delete the models, the store, and the files of the data set; lock files stay."""
    remove_attempts()
    delete_store(STORE)
    data = [settings.data_dir / name for name in dataset.files]
    monitored = [*settings.data_dir.glob(f"{FILE}*"), *settings.data_dir.glob(".alerts.json.*")]
    monitored.append(settings.data_dir / "alerts.json")
    messages = settings.data_dir.glob(f"{MESSAGES.name}*")
    samples = (mlflow_live.SAMPLES, mlflow_live.SENDING)  # of models whose ids are given out again
    for path in (*data, *monitored, *messages, *samples):
        path.unlink(missing_ok=True)
    delete_all(Registry())


def main() -> None:
    """Delete everything, or say in one sentence why not and exit with 1."""
    parser = command_line(__doc__, "tools.clean")
    parser.add_argument("--yes", action="store_true", help="also what is not of this folder alone")
    confirmed = parser.parse_args().yes
    require_loopback(settings.kafka_host)
    if "://" in str(settings.models_dir) and not confirmed:
        raise SystemExit(f"Models are in {settings.models_dir}. To delete them: make clean YES=1")

    def refuse() -> None:
        raise SystemExit(f"A trainer works on {STORE}: stop it first")

    if isinstance(STORE, Server) and not confirmed:
        raise SystemExit(f"The observations are at {STORE}. To delete them too: make clean YES=1")
    with no_trainer(STORE, refuse):
        try:
            if is_reachable():
                say(delete_topics(confirmed))
            else:
                say(delete_data(settings.kafka_host, FOLDER))
        except BrokerError as error:
            raise SystemExit(str(error)) from None
        delete_files()
    say("Deleted the models, the observations and the unpacked data.")


if __name__ == "__main__":
    run(main)
