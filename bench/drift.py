"""Turns the world upside down half-way and compares the pipeline with a model that never learns.

    python -m bench.drift --messages 48000

Runs predictor.py, trainer.py and `sample_app.py --drift` with late outcomes on a broker of its own,
then reads the log. Prints log loss and accuracy of the answers, one line for each RETRAIN_EVERY
requests, beside those that the first model would have given.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tests.harness.brokers import free_port

from tests.chaos.run import Chaos, Options
from tests.harness.pipeline import Pipeline, wait_until
from train.judge import log_losses
from utils.console import say
from utils.datasets import dataset
from utils.model_store.model import Model, load
from utils.model_store.registry import Registry

SETTINGS = {"RETRAIN_EVERY": "4000", "TRAIN_WINDOW": "6000"}
EVERY = int(SETTINGS["RETRAIN_EVERY"])


def run(pipeline: Pipeline, messages: int) -> None:
    """Let the company send everything, and wait until what can be learned of it is learned."""
    pipeline.environment |= SETTINGS
    pipeline.predictor()
    pipeline.trainer()
    command = ["--drift", "--outcome-delay", "1", "--interval", "0", "--messages", str(messages)]
    app = pipeline.start("sample_app.py", *command)
    if app.wait(1_200):
        raise SystemExit(app.log.read_text()[-500:])
    due = messages * 9 // 10 // EVERY  # some outcomes never come

    def covered() -> bool:
        done = [m.get("retrain_requests_covered") or 0 for m in pipeline.messages("retrain_topic")]
        return max(done, default=0) >= due

    wait_until(covered, timeout=300, what=f"{due} retrain requests to be covered")


def figures(pipeline: Pipeline, first: Model) -> Table:
    """Return the table, made from the log."""
    requests, answers = {}, {}
    for message in pipeline.messages("app_messages"):
        target = requests if "data" in message else answers
        target[message["request_id"]] = message
    reports = pipeline.messages("outcomes_topic")
    outcomes = {r["request_id"]: dataset.outcome_of(r["outcome"]) for r in reports}
    ids = [request_id for request_id in requests if request_id in outcomes]
    truth = np.array([outcomes[request_id] for request_id in ids])
    live = np.array([answers[request_id]["probability"] for request_id in ids])
    never = first.predict([requests[request_id]["data"] for request_id in ids])
    table = Table("requests", "models", "logloss", "accuracy", "never retrained", "accuracy")
    for start in range(0, len(ids), EVERY):
        part = slice(start, start + EVERY)
        models = sorted({answers[request_id]["model_id"] for request_id in ids[part]})
        cells = []
        for probabilities in (live[part], never[part]):
            cells.append(f"{log_losses(truth[part], probabilities).mean():.3f}")
            cells.append(f"{np.mean((probabilities > 0.5) == truth[part]):.3f}")
        rows = f"{start + 1:,} to {start + len(truth[part]):,}"
        table.add_row(rows, ", ".join(map(str, models)), *cells)
    return table


def main() -> int:
    """Do one run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--messages", type=int, default=48_000, help="requests to send (48000)")
    messages = parser.parse_args().messages
    folder = Path(tempfile.mkdtemp(prefix="drift-"))
    chaos = Chaos(Options(partitions=1), folder, f"localhost:{free_port()}")
    try:
        chaos.prepare()
        first = load(Registry(folder / "models"), 0)
        run(chaos.pipeline, messages)
        Console().print(figures(chaos.pipeline, first))
        for message in chaos.pipeline.messages("retrain_topic"):
            if "retrain" not in message:
                say(json.dumps(message)[:230])
    finally:
        chaos.close()
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
