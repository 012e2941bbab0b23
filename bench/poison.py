"""Poisons the outcomes a little more before each training: what the judge's anchor holds back.

    python -m bench.poison                 # 40 trainings, a few minutes; needs no Kafka
    python -m bench.poison --wrong 0       # no poison: how often the anchor rejects a good model

Before training k, 300 observations arrive, k % of them with the wrong outcome. Each model is
trained on all rows, as the trainer does, and judged twice: with the anchor and without. The table
shows the log loss of each champion on rows with true outcomes that no model has seen.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from train.fit import fit_model
from train.held_out import is_for_judge
from train.judge import judge
from train.row_hash import hash_frame
from train.rows import LabeledRows, rows_that_judge
from train.space import START
from train.store.snapshot import JUDGED_TRAININGS
from train.warm_start import champion_points
from utils.console import say
from utils.datasets import dataset
from utils.model_store.model import Model
from utils.script import command_line

ORIGINAL, EVERY = 24_000, 300  # rows
STEPS = 0.005, 0.01  # of log loss above the first champion's


class Stream:
    """Rows in random order: the original ones, those that arrive, those that no model sees."""

    def __init__(self, trainings: int, wrong: float, seed: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            dataset.prepare(Path(folder))
            parts = [dataset.training(Path(folder)), dataset.test(Path(folder))]
        rng = np.random.default_rng(seed)
        outcomes = np.concatenate([outcomes for _, outcomes in parts])
        order = rng.permutation(len(outcomes))
        names = [*dataset.numeric, *dataset.categorical]
        frame = pd.concat([frame[names] for frame, _ in parts]).iloc[order].reset_index(drop=True)
        frame = frame.astype(dict.fromkeys(dataset.categorical, "category"))
        self.rows = LabeledRows(frame, outcomes[order])
        # Of each row, the first training that uses it; 0 for original rows.
        self.groups = np.maximum((np.arange(len(order)) - ORIGINAL) // EVERY + 1, 0)
        self.hashes = hash_frame(frame)
        self.for_judge = is_for_judge(self.hashes)
        self.unseen = self.rows[self.groups > trainings]
        poisoned = (self.groups <= trainings) & (rng.random(len(order)) < wrong * self.groups)
        self.rows.outcomes[poisoned] = 1 - self.rows.outcomes[poisoned]

    def loss_of(self, model: Model) -> float:
        """Return the log loss of a model on the rows that no model sees."""
        scores = model.predict(self.unseen.frame)
        return float(dataset.target.losses(self.unseen.outcomes, scores).mean())

    def training(self, number: int) -> LabeledRows:
        """Return the rows that a training uses."""
        return self.rows[~self.for_judge & (self.groups <= number)]

    def judge(self, number: int) -> tuple[LabeledRows, np.ndarray]:
        """Return the rows of the judge after a training, and their groups."""
        recent = (self.groups <= number) & (self.groups > number - JUDGED_TRAININGS)
        candidates = np.flatnonzero(self.for_judge & (recent | (self.groups == 0)))
        judging = rows_that_judge(self.hashes[candidates], self.groups[candidates])
        return self.rows[candidates[judging]], self.groups[candidates[judging]]


class Line:
    """A sequence of champions: each challenger is judged by the last one, and by an anchor."""

    def __init__(self, first: Model, loss: float, with_anchor: bool) -> None:
        self.champion, self.anchor, self._with_anchor = first, None, with_anchor
        self.losses = [loss]  # of the champion on the unseen rows, after each training
        self.rejected = 0

    def challenge(self, challenger: Model, loss: float, rows: LabeledRows, groups: np.ndarray):
        """Let the judge decide; return the finding and the loss of the champion then, as text."""
        verdict = judge(self.champion, challenger, rows, groups, self.anchor)
        self.losses.append(self.losses[-1])
        if verdict.decision == "promoted":
            if self._with_anchor and verdict.anchor == self.champion.model_id:
                self.anchor = self.champion
            self.champion, self.losses[-1] = challenger, loss
        self.rejected += verdict.decision == "rejected"
        return f"{verdict.judgement.finding}, {self.losses[-1]:.4f}"

    def summary(self) -> str:
        """Return when the loss passed each of the STEPS, and where it ended."""
        rises = np.array(self.losses) - self.losses[0]
        passed = []
        for step in STEPS:
            above = np.flatnonzero(rises > step)
            passed.append(f"+{step:g} " + (f"at training {above[0]}" if len(above) else "never"))
        return f"{', '.join(passed)}, {rises[-1]:+.4f} at the end; {self.rejected} rejected"


def train(rows: LabeledRows, model_id: int, champion: Model | None) -> Model:
    """Return the model of a training, as train/retrain.py makes it."""
    points = champion_points(champion.card) if champion else [START]
    rest = {"hyper": "hyperopt", "max_evals": 1, "known_points": points}
    return fit_model(rows.frame, rows.outcomes, model_id=model_id, **rest)


def run(trainings: int, wrong: float, seed: int) -> dict[str, Line]:
    """Do all trainings; return the two lines of champions, and print them as a table."""
    stream = Stream(trainings, wrong, seed)
    first = train(stream.training(0), 0, None)
    loss = stream.loss_of(first)
    lines = {name: Line(first, loss, name == "anchor") for name in ("no anchor", "anchor")}
    table = Table("training", "its logloss", *lines)
    for number in range(1, trainings + 1):
        model = train(stream.training(number), number, lines["anchor"].champion)
        loss = stream.loss_of(model)
        judged = stream.judge(number)
        found = [line.challenge(model, loss, *judged) for line in lines.values()]
        table.add_row(str(number), f"{loss:.4f}", *found)
        say(f"Training {number} of {trainings}: {loss:.4f}")
    Console().print(table)
    return lines


def main() -> None:
    """Do one run and print its table."""
    parser = command_line(__doc__, "bench.poison")
    parser.add_argument("--trainings", type=int, default=40, help="(40)")
    parser.add_argument("--wrong", type=float, default=0.01, help="more wrong each time (0.01)")
    parser.add_argument("--seed", type=int, default=1, help="of the rows' order (1)")
    arguments = parser.parse_args()
    for name, line in run(arguments.trainings, arguments.wrong, arguments.seed).items():
        say(f"{name}: {line.summary()}")


if __name__ == "__main__":
    main()
