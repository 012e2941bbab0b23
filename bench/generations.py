"""Whether models get worse, or dearer, from one training to the next: log loss, time, trees.

    python -m bench.generations                     # twice 200 trainings: half an hour
    python -m bench.generations --trainings 5       # a first look

Runs the real predictor and trainer on two streams (bench/stream.py): in one every visitor is new,
in the other each one comes five times, under new request ids. After each training it measures the
champion on the rows of adult.test that no training of the first stream gets. Prints the course and
the trend of each figure, and writes docs/generations.svg.

The trend is the slope of a straight line. Successive champions are alike, which makes the usual
interval of a slope too narrow: here it is that of Santer et al., "Statistical significance of
trends and trend differences in layer-average atmospheric temperature time series", 2000, with as
many degrees of freedom as the residuals' autocorrelation at lag 1 leaves.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy import stats

from bench.models import copy_of
from bench.stream import ROWS, generations, new_rows, unseen_rows
from tests.harness.brokers import own_pipeline
from tests.harness.pipeline import Pipeline
from train.cost import microseconds_per_row
from utils.datasets import dataset
from utils.files import ROOT
from utils.model_store.model import load_champion
from utils.model_store.registry import Registry
from utils.script import command_line

VISITS = 5  # of each visitor of the second stream
PLOT = ROOT / "docs" / "generations.svg"
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "generations"}  # texts as text; the same ids


class Champion(NamedTuple):
    """The champion after one more training."""

    model_id: int
    logloss: float
    us_per_row: float
    trees: int


FIGURES = {  # field -> its name, its format and that of its trend
    "logloss": ("log loss", ".4f", "+.5f"),
    "us_per_row": ("us of CPU a row", ".1f", "+.2f"),
    "trees": ("trees", ".0f", "+.1f"),
}


def repeated_rows(trainings: int) -> list[list[int]]:
    """Return, for each training, which rows of adult.test it gets: each one VISITS times."""
    visitors = ROWS // VISITS
    return [list(range(n * visitors, (n + 1) * visitors)) * VISITS for n in range(trainings)]


def follow(initialized: Pipeline, name: str, rows: Sequence[Sequence[int]]) -> list[Champion]:
    """Return the first champion, and the champion after each training of a stream."""
    pipeline = copy_of(initialized, name)
    frame, outcomes = dataset.test(pipeline.folder / "data")
    unseen = unseen_rows(len(rows))

    def champion() -> Champion:
        model, warnings = load_champion(Registry(pipeline.folder / "models"))
        assert not warnings, warnings
        logloss = dataset.target.figures(outcomes[unseen], model.predict(frame[unseen]))["logloss"]
        microseconds = microseconds_per_row(model, frame[unseen])
        return Champion(model.model_id, logloss, microseconds, model.booster.num_trees())

    return [champion(), *(champion() for _ in generations(pipeline, rows, name))]


def trend(values: np.ndarray) -> tuple[float, float, float]:
    """Return the slope of a series, shape (n,), by 100 steps, and its 95 % interval.

    The interval is infinite if the values are so much alike that they tell nothing about it.
    """
    line = stats.linregress(steps := np.arange(len(values)), values)
    residuals = values - line.intercept - line.slope * steps
    independent = effective_size(residuals)
    slope = 100 * line.slope
    if not line.stderr > 0:  # all residuals are 0
        return slope, slope, slope
    if independent <= 2:
        return slope, -math.inf, math.inf
    error = 100 * line.stderr * math.sqrt((len(values) - 2) / (independent - 2))
    margin = stats.t.ppf(0.975, independent - 2) * error
    return slope, slope - margin, slope + margin


def effective_size(residuals: np.ndarray) -> float:
    """Return how many independent values tell as much as these, shape (n,)."""
    total = float(np.sum(residuals**2))
    if total == 0:
        return len(residuals)
    alike = max(float(np.sum(residuals[1:] * residuals[:-1])) / total, 0.0)
    return len(residuals) * (1 - alike) / (1 + alike)


def course_table(streams: dict[str, list[Champion]]) -> Table:
    """Return each figure at some generations, its range and its trend."""
    trainings = len(next(iter(streams.values()))) - 1
    shown = sorted({0, *(round(trainings * quarter / 4) for quarter in range(1, 5))})
    columns = [f"after {n}" for n in shown]
    trends = "in 100 trainings", "95 % interval"
    table = Table("generations", "visitors", "champions", *columns, "least", "most", *trends)
    for field, (title, form, of_trend) in FIGURES.items():
        for name, champions in streams.items():
            values = np.array([getattr(champion, field) for champion in champions], float)
            numbers = [*values[shown], values.min(), values.max()]
            slope, low, high = (format(value, of_trend) for value in trend(values))
            cells = [format(number, form) for number in numbers]
            different = len({champion.model_id for champion in champions})
            table.add_row(title, name, str(different), *cells, slope, f"{low} to {high}")
        table.add_section()
    return table


def plot(streams: dict[str, list[Champion]], path: Path) -> None:
    """Write the course of the figures as SVG, one below the other."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 7), layout="constrained")
        for axes, (field, (title, *_)) in zip(
            figure.subplots(len(FIGURES), sharex=True), FIGURES.items(), strict=True
        ):
            for name, champions in streams.items():
                values = [getattr(champion, field) for champion in champions]
                axes.plot(values, label=name, linewidth=1)
            axes.set_ylabel(title)
            axes.grid(alpha=0.3)
        figure.axes[0].legend(title="visitors")
        figure.axes[-1].set_xlabel(f"trainings, each after {ROWS} more requests")
        figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Run both streams, print the table and write the plot."""
    parser = command_line(__doc__, "bench.generations")
    parser.add_argument("--trainings", type=int, default=200, help="of each stream (200)")
    parser.add_argument("--out", type=Path, default=PLOT, help="the plot (docs/generations.svg)")
    parser.add_argument("--evaluations", type=int, help="of the first model (as initialize.py)")
    chosen = parser.parse_args()
    options = ["--max-evals", str(chosen.evaluations)] if chosen.evaluations else []
    schedules = {"new": new_rows(chosen.trainings), "repeated": repeated_rows(chosen.trainings)}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        own_pipeline(Path(folder), "bench-", *options) as pipeline,
    ):
        streams = {name: follow(pipeline, name, rows) for name, rows in schedules.items()}
    Console(width=160).print(course_table(streams))
    plot(streams, chosen.out)


if __name__ == "__main__":
    main()
