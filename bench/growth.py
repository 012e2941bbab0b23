"""How the cost of a request grows with categories, features, trees, bytes and the backlog.

    python -m bench.growth DATA_FOLDER --categories 10      (one step, in a process of its own)

utils/datasets/adult.py decides which columns there are, so a step changes that module before the
rest of the pipeline is imported, fits a model on it and measures the CPU time of predictor.answer().
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from bench.arena import Arena

BATCH = 4_000  # requests
REPEATS = 15
STEPS = ("categories", "features", "trees", "padding")
BACKLOG = 1_000_000


def grow(data: Path, categories: int, features: int, trees: int, padding: int) -> dict[str, float]:
    """Return the CPU time of each step in us a request, the least of many batches."""
    import lightgbm as lgb
    import pandas as pd

    from utils.datasets import dataset

    frame, outcomes = dataset.read_training(data)
    rows = dataset.read_test_requests(data)[:BATCH]
    numeric, categorical = dataset.NUMERIC_COLUMNS, dataset.CATEGORICAL_COLUMNS
    for number, row in enumerate(rows):
        for name in categorical:
            row[name] += f"-{number % categories}" if categories > 1 else ""
        own = list(row.items())
        row |= {f"{name}_{n}": value for n in range(1, features) for name, value in own}
        row |= {"note": "x" * padding} if padding else {}
    for name in categorical if categories > 1 else ():
        frame[name] += "-" + pd.Series(range(len(frame))).mod(categories).astype(str)
    frame = pd.concat(
        [frame, *(frame.add_suffix(f"_{n}") for n in range(1, features))], axis="columns"
    )
    for name, columns in (("NUMERIC_COLUMNS", numeric), ("CATEGORICAL_COLUMNS", categorical)):
        more = tuple(f"{column}_{n}" for n in range(1, features) for column in columns)
        setattr(dataset, name, columns + more)

    from utils.feature_tools import FeatureTools
    from utils.model_store.model import Model

    tools = FeatureTools(
        dataset.NUMERIC_COLUMNS, dataset.CATEGORICAL_COLUMNS, dataset.CROSSED_COLUMNS
    ).fit(frame)
    booster = lgb.train(
        {"objective": "binary", "num_leaves": 31, "verbosity": -1},
        lgb.Dataset(
            tools.transform(frame), outcomes, categorical_feature=tools.categorical_indices_
        ),
        num_boost_round=100 * trees,
    )
    return measure(Model(tools.encoder_, booster, {"model_id": 0}), rows)


def measure(model, rows: list[dict]) -> dict[str, float]:
    """Return us of CPU a request: decode, transform, predict and all of predictor.answer()."""
    from kafka import TopicPartition
    from kafka.consumer.fetcher import ConsumerRecord

    import predictor
    from utils.kafka_client.batch import Batch, SizeLimits
    from utils.messages import decode_requests

    blank = dict.fromkeys(ConsumerRecord._fields)
    records = [
        ConsumerRecord(
            **blank
            | {"topic": "t", "partition": 0, "offset": offset}
            | {"value": json.dumps({"request_id": f"{offset:036}", "data": row}).encode()}
        )
        for offset, row in enumerate(rows)
    ]
    partition = TopicPartition("t", 0)
    decoded = [request.data for _, request in decode_requests(records)[0]]
    matrix = model.features.transform(decoded)
    steps = {
        "decode": lambda: decode_requests(records),
        "transform": lambda: model.features.transform(decoded),
        "predict": lambda: model.booster.predict(matrix, num_threads=1),
        "answer": lambda: predictor.answer(
            Batch({partition: records}, None, {partition: 0}, SizeLimits()), model
        ),
    }
    assert len(decoded) == BATCH
    gc.freeze()
    return {name: least(step) / BATCH * 1e6 for name, step in steps.items()}


def least(step) -> float:
    """Return the least CPU time of many calls, in seconds: what others do makes it only longer."""
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        step()
        found.append(time.process_time() - began)
    return min(found)


def growth_table(arena: "Arena", rounds: int) -> "Table":
    """Return what a request costs as it is, and with one thing grown; medians of all rounds."""
    from rich.table import Table

    from utils.files import ROOT

    cases = {
        "as it is": [],
        "10 times the categories": ["--categories", "10"],
        "4 times the features": ["--features", "4"],
        "10 times the trees": ["--trees", "10"],
        "10 kB a request": ["--padding", "10000"],
    }
    found = {name: [] for name in cases}
    for _ in range(rounds):
        for name, options in cases.items():
            command = [sys.executable, "-m", "bench.growth", str(arena.folder / "data"), *options]
            shown = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
            found[name].append(json.loads(shown.stdout))
    keys = found["as it is"][0]
    table = Table("us of CPU a request, without Kafka's client", *keys, "ratio")
    for name, runs in found.items():
        figures = [f"{statistics.median(run[key] for run in runs):.1f}" for key in keys]
        pairs = zip(runs, found["as it is"], strict=True)
        ratio = statistics.median(run["answer"] / base["answer"] for run, base in pairs)
        table.add_row(name, *figures, f"{ratio:.2f}")
    return table


def backlog_table(arena: "Arena", models: Path) -> "Table":
    """Return how long a million requests take that wait when a predictor starts, and its memory."""
    from rich.table import Table

    from tests.chaos.soak import memory

    table = Table("backlog", "")
    with arena.case(models) as case:
        case.send_until(BACKLOG)
        began = time.monotonic()
        process = case.start("predictor.py")
        samples: list[tuple[float, float]] = []

        def look() -> None:
            samples.append((case.answered() / BACKLOG, memory(process.pid)))

        figures = case.measure([process.pid], BACKLOG, waiting=BACKLOG, meanwhile=look)
        table.add_row("requests", f"{BACKLOG:,}")
        table.add_row("drained in", f"{time.monotonic() - began:.0f} s")
        table.add_row("requests/s", f"{figures.rate:,.0f}")
        table.add_row("us of CPU a request", f"{figures.cpu:.1f}")
        for share in (0.1, 0.5, 0.9):
            resident = next(mb for done, mb in samples if done >= share)
            table.add_row(f"memory at {share:.0%}", f"{resident:.0f} MB")
        table.add_row("peak", f"{memory(process.pid, 'VmHWM'):.0f} MB")
    return table


def main() -> None:
    """Measure one step and print it as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="folder with adult.data and adult.test")
    for name in STEPS:
        parser.add_argument(f"--{name}", type=int, default=int(name != "padding"))
    print(json.dumps(grow(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
