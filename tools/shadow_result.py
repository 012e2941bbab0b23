"""What a shadow comparison has found: as numbers, and as a table (`python -m tools.shadow`)."""

import math
from collections.abc import Callable

import msgspec
import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from monitoring.figures.shadow import Shadow
from train.comparison import Comparison, estimates
from train.cost import cost_of, microseconds_per_row
from train.judge import PROMOTED, decide, explain, margin_of
from utils.console import printable
from utils.datasets import dataset
from utils.model_store.compatibility import add_absent
from utils.model_store.model import Model

NAMED = 5  # models that a text names
SEED = 1


class Side(msgspec.Struct):
    """One of the two: the candidate, or the answers that were given.

    figures : on the observations, the loss first. us_per_request : CPU time of the model alone,
    measured now on the newest requests; None if the model can't be loaded, or there are none.
    """

    models: list[int]
    figures: dict[str, float] = {}
    us_per_request: float | None = None


class Result(msgspec.Struct):
    """A shadow comparison.

    requests : read; compared : of them, answered by both. equal_decisions : share of these with the
    same class, None of a number. mean_distance : see Shadow. observations : of those compared, with
    an outcome; rows : the newest of them, from which all that follows is computed. difference : of
    the losses, below 0 if the candidate is better; interval : 95 %, by the paired bootstrap.
    decision, why : what the judge of a training would say, "" before there are observations.
    """

    candidate: Side
    given: Side
    seconds: float
    requests: int
    compared: int
    equal_decisions: float | None
    mean_distance: float | None
    observations: int
    rows: int
    difference: float | None = None
    interval: tuple[float, float] | None = None
    decision: str = ""
    why: str = ""


def result_of(
    shadow: Shadow, candidate: Model, find: Callable[[int], Model | None], seconds: float
) -> Result:
    """Return what is known now; find : returns a model that has answered, None if it is gone."""
    rows, compared = shadow.rows(), shadow.compared
    answered_by = np.unique(rows["model_id"]).tolist()
    champion = find(int(rows["model_id"][-1])) if len(rows) else None
    is_class = dataset.target.kind == "classes"
    result = Result(
        Side([candidate.model_id], us_per_request=_cost(candidate, shadow)),
        Side(answered_by, us_per_request=_cost(champion, shadow)),
        seconds,
        shadow.requests,
        compared,
        shadow.equal / compared if compared and is_class else None,
        shadow.distance / compared if compared else None,
        shadow.observations,
        len(rows),
    )
    if len(rows):
        cost = cost_of(candidate) / max(cost_of(champion), 1) if champion else math.nan
        _judge(result, rows, cost)
    return result


def _cost(model: Model | None, shadow: Shadow) -> float | None:
    sample = shadow.sample.data()
    if model is None or not sample:
        return None
    return microseconds_per_row(model, add_absent(sample, model.absent))


def _judge(result: Result, rows: np.ndarray, cost: float) -> None:
    """Add figures, the paired difference, and what train/judge.py would say.

    All rows are one group, as no training divides them, and there is no anchor.
    """
    target, outcomes = dataset.target, rows["outcome"]
    scores = [target.as_scores(rows[name]) for name in ("own", "given")]
    for side, each in zip((result.candidate, result.given), scores, strict=True):
        side.figures = target.figures(outcomes, each)
    own, given = (target.losses(outcomes, each) for each in scores)
    groups = np.zeros(len(rows), int)
    [found] = estimates((own - given)[None], groups, SEED).tolist()
    result.difference, result.interval = found[0], (found[1], found[2])
    if len(np.unique(outcomes)) < 2:
        result.why = "not judged: all outcomes are the same"
        return
    other = _named(result.given.models)
    comparison = Comparison(other, *found, found[0], cost)
    margin = margin_of(outcomes, given, groups)
    finding = decide([comparison], margin)
    result.decision = "promoted" if finding in PROMOTED else "rejected"
    result.why = explain(finding, [comparison], groups, margin, "observations")
    if math.isnan(cost):
        result.why += f"; its cost is not compared, as model {result.given.models[-1]} is away"


def _named(models: list[int]) -> str:
    """Return ids as text, such as "3, 5 and 2 more"."""
    shown = ", ".join(map(str, models[-NAMED:]))
    return shown + (f" and {len(models) - NAMED} more" if len(models) > NAMED else "")


def view(result: Result) -> Group:
    """Return a table of both, and what follows from it in words."""
    candidate, given = result.candidate, result.given
    table = Table("", "candidate", "answers given")
    table.add_row("model", _named(candidate.models), _named(given.models))
    for name, value in candidate.figures.items():
        table.add_row(name, *(f"{each:,.4f}" for each in (value, given.figures[name])))
    costs = candidate.us_per_request, given.us_per_request
    table.add_row("us a request", *("" if each is None else f"{each:.1f}" for each in costs))
    return Group(table, *(Text(printable(line)) for line in _sentences(result)))


def _sentences(result: Result) -> list[str]:
    lines = [f"{result.requests:,} requests, {result.compared:,} of them answered by both"]
    if result.equal_decisions is not None:
        lines[0] += f": {result.equal_decisions:.2%} equal decisions"
    if result.mean_distance is not None:
        lines[0] += f", mean difference {result.mean_distance:.4g}"
    if result.interval is None:
        return [*lines, "No outcome is known yet."]
    low, high, shown = *result.interval, dataset.target.shown
    newest = f", figures of the newest {result.rows:,}" if result.rows < result.observations else ""
    lines.append(f"{result.observations:,} outcomes{newest}")
    difference = f"{shown(result.difference)} (95 %: {shown(low)} to {shown(high)})"
    lines.append(f"{dataset.target.loss}, candidate less answers: {difference}")
    verdict = f"it would be {result.decision}: " if result.decision else ""
    lines.append(f"The judge: {verdict}{result.why}")
    return lines
