"""Audits past predictions of 30 models, 29 of which are in the archive only, and says what it took.

    python -m bench.audit
    python -m bench.audit --models 30 --requests 1000

A predictor answers on a broker of its own, each model its share of the requests; the archive
follows; Kafka then deletes all messages. Each number has to be the same, bit for bit. The models
are made by the trainer's code, each from other rows.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from kafka import KafkaAdminClient, TopicPartition

from bench.clock import Clock
from tests.harness.brokers import QUICK, own_pipeline
from tests.harness.pipeline import Pipeline, wait_until
from train.fit import fit_model
from utils.console import print_table
from utils.datasets import dataset
from utils.model_store.model import save
from utils.model_store.registry import Registry
from utils.script import command_line, run

ROWS = 3_000  # of a training set
FOLLOW = """
from monitoring.audit.message_archive import MessageArchive
from utils.kafka_client.reader import Reader
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC, RETRAIN_TOPIC

archive, reader = MessageArchive(), Reader({}, APP_MESSAGES, OUTCOMES_TOPIC, RETRAIN_TOPIC)
ends, done = reader.ends(), False
while not done:
    done = reader.has_read(ends)
    archive.add(reader.poll(0.1))
"""


def answered_by(pipeline: Pipeline, models: int, requests: int) -> list[str]:
    """Let this number of models answer the requests; return the ids."""
    registry, ids = Registry(pipeline.folder / "models"), []
    frame, outcomes = dataset.training(pipeline.folder / "data")
    share = -(-requests // models)
    for model_id in range(1, models + 1):
        rows = np.random.default_rng(model_id).choice(len(frame), ROWS, replace=False)
        part = frame.iloc[rows].reset_index(drop=True)
        fitted = fit_model(part, outcomes[rows], model_id=model_id, hyper="hyperopt", max_evals=1)
        save(fitted, registry)
        registry.promote(model_id)
        pipeline.wait_for_output(pipeline.processes[0], f"Model {model_id} answers from now on")
        registry.prune(keep=0)
        ids += [pipeline.request(row) for row in range(len(ids), min(len(ids) + share, requests))]
        pipeline.producer.flush()
        pipeline.wait_for_replies(len(ids))
    return ids


def forget(pipeline: Pipeline) -> None:
    """Follow the topics to their ends, and delete all messages of app_messages."""
    pipeline.start("-c", FOLLOW).wait()
    topic = f"{pipeline.prefix}app_messages"
    with KafkaAdminClient(bootstrap_servers=pipeline.host) as admin:
        admin.delete_records({TopicPartition(topic, 0): -1})
    wait_until(lambda: not pipeline.records("app_messages"))


def main() -> None:
    """Print the figures; AssertionError if a number is not the same."""
    parser = command_line(__doc__, "bench.audit")
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--requests", type=int, default=1_000)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        own_pipeline(Path(folder), "audit-", *QUICK) as pipeline,
    ):
        pipeline.create_topic("outcomes_topic")
        pipeline.predictor(RETRAIN_EVERY="1000000")
        ids = answered_by(pipeline, arguments.models, arguments.requests)
        forget(pipeline)
        names = Path(folder) / "ids"
        names.write_text("\n".join(ids))
        took = Clock()
        lines = pipeline.run("tools.audit", "--json", "--ids", str(names)).stdout.splitlines()
        took, one = took.seconds(), Clock()
        pipeline.run("tools.audit", ids[0])
        show(len(ids), [json.loads(line) for line in lines], took, one.seconds(), Path(folder))


def show(requests: int, audits: list[dict], took: dict, one: dict, folder: Path) -> None:
    """Print the figures; AssertionError if an answer was not computed again as it was."""
    answers = [answer for each in audits for answer in each["answered"]]
    assert len(answers) == requests
    assert {answer["result"] for answer in answers} == {"same"}
    models = {answer["model"]["digest"]: answer["where"] for answer in answers}
    archived = sum(where == "the archive" for where in models.values())
    kept = [path.stat().st_size for path in (folder / "models" / "archive").glob("*.zst")]
    messages = sum(path.stat().st_size for path in (folder / "data").glob("audit.db*"))
    rows = [
        ("predictions computed again, all the same", f"{len(answers):,}"),
        ("by models, of which are in the archive", f"{len(models)}, {archived}"),
        ("seconds for all (CPU)", f"{took['seconds']:.1f} ({took['cpu']:.1f})"),
        ("seconds for one (CPU)", f"{one['seconds']:.1f} ({one['cpu']:.1f})"),
        ("kB of an archived model", f"{sum(kept) / len(kept) / 1000:.0f}"),
        ("kB of all messages", f"{messages / 1000:.0f}"),
    ]
    print_table(("audit", ""), rows)


if __name__ == "__main__":
    run(main)
