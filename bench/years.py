"""How a training grows with the observations in the store, with a window and without one.

    python -m bench.years FOLDER --most 10000000      (needs data/ and models/ in FOLDER)
    OBSERVATIONS_URL=postgresql://... python -m bench.years FOLDER      (in a schema of its own)

Each training is the trainer's training process, with one evaluation. The observations are rows of
adult.data with other numbers, so that no two are equal, and with outcomes drawn from a model's
probabilities (see bench/retrain_once.py for the reason). They are written as segments, without the
keys of their requests, which a training does not read. Prints a table, and writes docs/years.svg.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import lightgbm as lgb
import numpy as np
from rich.console import Console
from rich.table import Table

from train.store.columns import Column, encode_columns, narrow
from train.store.database import batched
from train.store.observations import Observations
from train.store.one_trainer import delete_store
from train.store.place import FILE, Server, open_database, schema_of
from train.store.schema import SEGMENT_ROWS
from utils.datasets import dataset
from utils.feature_encoder import fit_encoder
from utils.files import ROOT
from utils.script import command_line
from utils.settings import settings

WINDOW = 6_000
PREFIX = "bench-years-"  # of the topics, and so the name of the schema
TRAININGS_OF = 100_000  # observations between two trainings
PLOT = ROOT / "docs" / "years.svg"


class Cost(NamedTuple):
    """What a training took."""

    observations: int
    seconds: float
    cpu_seconds: float
    megabytes: float  # at its peak


def segments(folder: Path, rows: int) -> Iterator[tuple]:
    """Yield rows of the table `segments`, in total `rows` observations."""
    frame, y = dataset.training(folder)
    rng, columns = np.random.default_rng(1), (dataset.numeric, dataset.categorical)
    X = fit_encoder(frame, *columns).transform(frame)
    model = lgb.train({"objective": "binary", "verbosity": -1}, lgb.Dataset(X, y))
    probabilities = model.predict(X)
    texts = {name: frame[name].astype("category").cat for name in dataset.categorical}
    for first in range(0, rows, SEGMENT_ROWS):
        drawn = rng.integers(0, len(frame), size := min(SEGMENT_ROWS, rows - first))
        columns = {}
        for name in dataset.numeric:
            numbers = frame[name].to_numpy(float)[drawn]
            numbers += rng.integers(0, 100_000, size) if name == "fnlwgt" else 0
            array = narrow(numbers)
            columns[name] = Column(array.dtype.str, array.tobytes())
        for name, values in texts.items():
            array = values.codes.to_numpy()[drawn]
            columns[name] = Column(array.dtype.str, array.tobytes(), values.categories.tolist())
        outcomes = (rng.random(size) < probabilities[drawn]).astype(np.uint8).tobytes()
        yield first, size, 0.0, outcomes, encode_columns(columns), b""


def make_store(folder: Path, rows: int) -> None:
    """Make a store with this many observations, of which all but the last were trained on."""
    url = settings.observations_url
    place = Server(url, schema_of(PREFIX)) if url.get_secret_value() else folder / FILE
    delete_store(place)
    Observations(place).close()
    insert = "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)"
    trainings = range(TRAININGS_OF, rows, TRAININGS_OF)
    counters = {"observations": rows, "trainings": len(trainings)}
    with closing(open_database(place)) as db:
        for some in batched(segments(folder, rows), 50):
            with db.transaction():
                db.execute_many(insert, some)
        with db.transaction():
            db.execute_many("INSERT INTO trainings VALUES (?, ?)", list(enumerate(trainings, 1)))
            for name, value in counters.items():
                db.query("UPDATE counters SET value = ? WHERE name = ?", (value, name))


def train(data: Path, models: Path, rows: int, window: int) -> Cost:
    """Run the training process on the store in this folder, and measure it."""
    with tempfile.TemporaryDirectory() as result:
        command = [sys.executable, "-m", "train.retrain", "--folder", result, "--model-id", "1"]
        command += ["--hyper", "hyperopt", "--max-evals", "1", "--timeout", "600"]
        variables = {"DATA_DIR": data, "MODELS_DIR": models, "TRAIN_WINDOW": window}
        variables["TOPIC_PREFIX"] = PREFIX
        env = os.environ | {name: str(value) for name, value in variables.items()}
        began = time.perf_counter()
        child = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"The training of {rows:,} rows failed: {child.returncode}")
    return Cost(rows, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def plot(costs: dict[str, list[Cost]]) -> str:
    """Return both figures, seconds and MB over observations, as SVG with logarithmic axes."""
    parts = ["<svg xmlns='http://www.w3.org/2000/svg' width='760' height='300' "
             "font-family='sans-serif' font-size='11'>",
             "<rect width='100%' height='100%' fill='white'/>"]  # fmt: skip
    for left, label, figure in ((50, "seconds", 1), (430, "MB", 3)):
        values = [cost[figure] for each in costs.values() for cost in each]
        low, high = np.floor(np.log10(min(values))), np.ceil(np.log10(max(values)))

        def place(cost: Cost, left=left, figure=figure, low=low, high=high) -> str:
            x = left + 280 * (np.log10(cost.observations) - 4) / 3
            y = 250 - 210 * (np.log10(cost[figure]) - low) / (high - low)
            return f"{x:.0f},{y:.0f}"

        parts.append(f"<text x='{left}' y='20'>{label} of a training</text>")
        for decade in range(4, 8):
            x = left + 280 * (decade - 4) / 3
            parts.append(f"<path d='M{x:.0f} 40V250' stroke='#ddd'/>")
            parts.append(f"<text x='{x:.0f}' y='265' text-anchor='middle'>{10**decade:,}</text>")
        for decade in range(int(low), int(high) + 1):
            y = 250 - 210 * (decade - low) / (high - low)
            parts.append(f"<path d='M{left} {y:.0f}h280' stroke='#ddd'/>")
            name = f"{10.0**decade:g}"
            parts.append(f"<text x='{left - 4}' y='{y + 4:.0f}' text-anchor='end'>{name}</text>")
        for (name, each), color in zip(costs.items(), ("#c33", "#36c"), strict=True):
            points = " ".join(map(place, each))
            parts.append(f"<polyline points='{points}' fill='none' stroke='{color}'/>")
            x, y = points.split()[-1].split(",")
            parts.append(
                f"<text x='{x}' y='{int(y) - 6}' text-anchor='end' fill='{color}'>{name}</text>"
            )
    parts.append(
        "<text x='380' y='290' text-anchor='middle'>observations in the store</text></svg>"
    )
    return "\n".join(parts)


def main() -> None:
    """Measure trainings of `--least` observations to `--most`, print a table, write the plot."""
    parser = command_line(__doc__, "bench.years")
    parser.add_argument("folder", type=Path, help="with data/ and models/")
    parser.add_argument("--most", type=int, default=10**7, help="observations (10,000,000)")
    parser.add_argument("--least", type=int, default=10**4, help="(10,000)")
    parser.add_argument("--plot", type=Path, default=PLOT, help="(docs/years.svg)")
    arguments = parser.parse_args()
    costs: dict[str, list[Cost]] = {"all rows": [], f"TRAIN_WINDOW={WINDOW}": []}
    table = Table("observations", *(f"{n}: {what}" for n in costs for what in ("s", "CPU s", "MB")))
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(arguments.folder, copy, dirs_exist_ok=True)
        data, models = Path(copy) / "data", Path(copy) / "models"
        sizes = [10**4, 10**5, 10**6, 5 * 10**6, 10**7]
        for rows in (size for size in sizes if arguments.least <= size <= arguments.most):
            make_store(data, rows)
            for (_, found), window in zip(costs.items(), (0, WINDOW), strict=True):
                found.append(train(data, models, rows, window))
            pairs = [found[-1] for found in costs.values()]
            cells = [f"{x:.0f}" for cost in pairs for x in cost[1:]]
            table.add_row(f"{rows:,}", *cells)
            print(rows, *cells, flush=True)
    Console().print(table)
    arguments.plot.write_text(plot(costs))


if __name__ == "__main__":
    main()
