"""How the cost of a request grows with categories, features, trees and bytes.

    python -m bench.growth FOLDER --categories 10      (one case, in a process of its own)

FOLDER has data/ and models/. Without an option the champion is measured as it is. With one, the
columns of utils/datasets/adult.py are changed before the rest of the pipeline is imported, and a
model with the champion's hyperparameters is fitted to the changed data. What is measured is the CPU
time of predictor.answer() and its steps.
"""

import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from utils.datasets import dataset
from utils.datasets.adult import read_test_requests
from utils.script import command_line

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table

BATCH = 4_000  # requests
REPEATS = 5  # batches a round
OPTIONS = {"categories": 1, "features": 1, "trees": 1, "padding": 0}  # the model as it is
GROWN = {
    "10 times the categories": ["--categories", "10"],
    "4 times the features": ["--features", "4"],
    "twice the trees": ["--trees", "2"],
    "requests of 10 kB": ["--padding", "10000"],
}


def grow_rows(rows: list[dict], categories: int, features: int, padding: int) -> None:
    """Change these requests in place."""
    categorical = dataset.categorical
    for number, row in enumerate(rows):
        for name in categorical if categories > 1 else ():
            row[name] += f"-{number % categories}"
        own = list(row.items())
        row |= {f"{name}_{n}": value for n in range(1, features) for name, value in own}
        row |= {"note": "x" * padding} if padding else {}


def grow_frame(frame: "DataFrame", categories: int, features: int) -> "DataFrame":
    """Return the training rows, changed in the same way."""
    import pandas as pd

    for name in dataset.categorical if categories > 1 else ():
        frame[name] += "-" + pd.Series(range(len(frame))).mod(categories).astype(str)
    copies = (frame.add_suffix(f"_{n}") for n in range(1, features))
    return pd.concat([frame, *copies], axis="columns")


def grow_columns(features: int) -> None:
    """Change which columns the data set has; before anything else imports them."""
    for name in ("NUMERIC_COLUMNS", "CATEGORICAL_COLUMNS"):
        columns = getattr(dataset, name)
        copies = tuple(f"{column}_{n}" for n in range(1, features) for column in columns)
        setattr(dataset, name, columns + copies)


def fit(frame: "DataFrame", outcomes, card: bytes, trees: int):
    """Return a model of these rows, with the hyperparameters of a card and `trees` times its trees.

    card : as JSON; its type can't be imported before the columns are changed.
    """
    import lightgbm as lgb

    from utils.feature_tools import FeatureTools
    from utils.model_store.card import decode_card
    from utils.model_store.model import Model

    card = decode_card(card)
    tools = FeatureTools(dataset.numeric, dataset.categorical, dataset.crossed).fit(frame)
    parameters = {"objective": "binary", "verbosity": -1, "subsample_freq": 1} | card.parameters
    parameters["num_leaves"] = int(parameters["num_leaves"])
    rounds = int(parameters.pop("num_boost_round")) * trees
    data = lgb.Dataset(tools.transform(frame), outcomes)
    return Model(tools.encoder_, lgb.train(parameters, data, num_boost_round=rounds), card)


def measure(model, rows: list[dict], repeats: int) -> dict[str, float]:
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
        for offset, row in enumerate(rows[:BATCH])
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
    return {name: least_cpu_time(step, repeats) / BATCH * 1e6 for name, step in steps.items()}


def least_cpu_time(step, repeats: int) -> float:
    """Return the least CPU time of the calls, in seconds: other processes only add to it."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        step()
        found.append(time.process_time() - began)
    return min(found)


def in_a_process(folder: Path, options: list[str], repeats: int) -> dict[str, float]:
    """Measure one case in a process of its own."""
    from utils.files import ROOT

    command = [sys.executable, "-m", "bench.growth", str(folder), "--repeats", str(repeats)]
    shown = subprocess.run([*command, *options], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return json.loads(shown.stdout)


def growth_table(models: dict[str, Path], rounds: int) -> "Table":
    """Return what a request costs with each model, and with one thing of the first model grown."""
    from rich.table import Table

    first = next(iter(models))
    cases = {name: (folder, []) for name, folder in models.items()}
    cases |= {f"{first}, {name}": (models[first], options) for name, options in GROWN.items()}
    found = {name: in_a_process(*case, rounds * REPEATS) for name, case in cases.items()}
    table = Table("us of CPU a request, without Kafka's client", *found[first], "ratio")
    for name, costs in found.items():
        figures = [f"{cost:.1f}" for cost in costs.values()]
        table.add_row(name, *figures, f"{costs['answer'] / found[first]['answer']:.2f}")
    return table


def main() -> None:
    """Measure one case and print it as JSON."""
    parser = command_line(__doc__, "bench.growth")
    parser.add_argument("folder", type=Path, help="with data/ and models/")
    for name, value in OPTIONS.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"({value})")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"({REPEATS})")
    options = vars(parser.parse_args())
    folder, repeats = options.pop("folder"), options.pop("repeats")
    print(json.dumps(run_case(folder, options, repeats)))


def run_case(folder: Path, options: dict[str, int], repeats: int) -> dict[str, float]:
    """Return the costs of one case, see measure()."""
    rows = read_test_requests(folder / "data")[:BATCH]
    if options == OPTIONS:
        from utils.model_store.model import load_champion
        from utils.model_store.registry import Registry

        return measure(load_champion(Registry(folder / "models"))[0], rows, repeats)
    categories, features, trees, padding = options.values()
    frame, outcomes = dataset.training(folder / "data")
    grow_rows(rows, categories, features, padding)
    frame = grow_frame(frame, categories, features)
    grow_columns(features)
    champion = json.loads((folder / "models" / "champion.json").read_bytes())["model_id"]
    card = (folder / "models" / f"model_{champion}.json").read_bytes()
    return measure(fit(frame, outcomes, card, trees), rows, repeats)


if __name__ == "__main__":
    main()
