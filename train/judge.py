"""Champion or challenger: is the new model good enough to replace the one that answers now?

Both predict rows that neither was trained on: observations of the last W trainings, and original
rows if these are too few. (Cross-validation can't judge the champion: all other rows may be rows
that it was trained on.) They are compared as train/comparison.py says. The original rows are one
group: while they are more than half of the rows, their difference is the median, and the
observations do not count. This protects against wrong outcomes, and sees no drift. It ends when
five trainings bring more than JUDGE_ROWS / 2 observations for the judge: from about 2,000
observations a training.

The first of these rules that applies decides:

not judged : no rows are held out, or all of them have the same outcome; or the champion does not
    know a class that training rows have. The challenger is promoted: otherwise a data set like this
    could never replace its first model.
better : the challenger is better beyond noise. It is promoted.
worse : it is worse beyond noise. It is rejected.
can't tell : it may be worse by more than a twentieth of what the champion gains over always
    predicting the mean outcome of these rows (of several classes: their shares): the 95 % interval
    reaches that. It is rejected. This is a test of non-inferiority with a margin that preserves
    95 % of the effect (US Food and Drug Administration, "Non-Inferiority Clinical Trials to
    Establish Effectiveness", 2016). With more observations there are more rows, and the interval
    gets shorter.
worse than the anchor : it is worse beyond noise than the best of the earlier champions. It is
    rejected. Otherwise models could get worse step by step, each step within the noise.
dearer : its predictions cost more than 1.5 times those of the champion or of the anchor, and it is
    not better beyond noise than that one. It is rejected, unless MODEL_COST=any.
as good : no other rule applies. It is promoted, as it knows newer data.
"""

from typing import NamedTuple

import numpy as np

from train.comparison import Comparison, compare, median_of_means
from train.row_hash import hash_frame
from train.rows import LabeledRows, newest_of_equal
from utils.datasets import dataset
from utils.model_store.card import Judgement
from utils.model_store.model import Model
from utils.settings import settings

PROMOTED = {"better", "as good"}
IMPOSSIBLE = 1e-9  # the probability of a class without training rows is below
SAMPLED_ROWS = 1_000
# The part of the champion's gain that matters. On the default data set, 200 rows promoted 0.2 % of
# the models that lost more than a tenth of the gain (48 % if only "worse" is rejected). Of models
# that follow each other in a stream without drift, 2,000 rows rejected 4 %, with and without it.
LOST_GAIN = 0.05
COST_LIMIT = 1.5  # how many times the cost of another model is too much if it is no better
# The standard errors that a margin must have for models that are equal to pass with a probability
# of 80 %: the quantiles of the normal distribution at 0.975 and 0.8.
POWER = 1.96 + 0.84


class Verdict(NamedTuple):
    """The decision, the reason as text, the figures, and the anchor of the judge after this one."""

    decision: str  # "promoted" or "rejected"
    why: str
    judgement: Judgement | None
    anchor: int  # model_id; it counts if the challenger becomes the champion


def judge(
    champion: Model,
    challenger: Model,
    rows: LabeledRows,
    groups: np.ndarray,
    anchor: Model | None = None,
    seed: int = 1,
) -> Verdict:
    """Return whether the challenger is promoted or rejected.

    groups, of shape (n,) : for each row the first training that used it, 0 for an original row.
    anchor : the model that the verdict on the champion named; without it, the champion is the
    anchor.
    """
    if len(np.unique(rows.outcomes)) < 2:
        same = f"all {len(rows):,} held-out rows have the same outcome"
        why = f"not judged: {same if len(rows) else 'no rows are held out'}"
        return Verdict("promoted", why, None, (anchor or champion).model_id)
    models = [challenger, champion, *([anchor] if anchor else [])]
    scores = [model.predict(rows.frame) for model in models]
    losses = [dataset.target.losses(rows.outcomes, each) for each in scores]
    compared = compare(models, losses, groups, seed)
    new, old = (dataset.target.figures(rows.outcomes, each) for each in scores[:2])
    margin = margin_of(rows.outcomes, losses[1], groups)
    finding = decide(compared[:2], margin)
    judgement = Judgement(
        rows=len(rows),
        observed=int((groups > 0).sum()),
        champion=old,
        challenger=new,
        difference=(compared[0].low, compared[0].high),
        estimate=compared[0].difference,
        finding=finding,
        margin=margin,
        cost=compared[0].cost,
    )
    decision = "promoted" if finding in PROMOTED else "rejected"
    next_anchor = champion.model_id
    if anchor:
        judgement.anchor = anchor.model_id
        judgement.anchor_difference = compared[1].low, compared[1].high
        # A champion that is only as good does not become the anchor: the best of many equal models
        # is a lucky one on these rows, and beside it good models seem worse.
        if not compared[2].is_better:
            next_anchor = anchor.model_id
    why = explain(finding, compared[:2], groups, margin) + copies(rows, groups)
    return Verdict(decision, why, judgement, next_anchor)


def unlearned_class(champion: Model, rows: LabeledRows) -> str | int | None:
    """Return a class that two of the rows have, and that the champion takes for impossible.

    It was added to the data set after the champion was trained, for example. Where observations of
    it are few, they would not count before the judge, see above.
    """
    target = dataset.target
    if target.outputs == 1:
        return None
    sizes = np.bincount(rows.outcomes.astype(int), minlength=target.outputs)
    step = max(len(rows) // SAMPLED_ROWS, 1)
    highest = champion.predict(rows.frame[::step]).max(axis=0)
    places = np.flatnonzero((sizes >= 2) & (highest < IMPOSSIBLE))
    return target.labels[places[0]] if len(places) else None


def decide(compared: list[Comparison], margin: float) -> str:
    """Return the first rule that applies; see the top of this file.

    compared : the challenger with the champion, and with the anchor if there is one.
    """
    with_champion = compared[0]
    if with_champion.is_better:
        return "better"
    if with_champion.is_worse:
        return "worse"
    if with_champion.high > margin:
        return "can't tell"
    if compared[-1].is_worse:
        return "worse than the anchor"
    return "dearer" if any(map(is_dearer, compared)) else "as good"


def is_dearer(comparison: Comparison) -> bool:
    """Return whether the model costs more than its quality is worth."""
    matters = settings.model_cost == "low"
    return matters and comparison.cost > COST_LIMIT and not comparison.is_better


def margin_of(outcomes: np.ndarray, losses: np.ndarray, groups: np.ndarray) -> float:
    """Return how much worse than a champion with these losses a challenger may be."""
    return LOST_GAIN * max(gain(outcomes, losses, groups), 0)


def gain(outcomes: np.ndarray, losses: np.ndarray, groups: np.ndarray) -> float:
    """Return how much lower these losses are than those of always predicting the mean outcome.

    Over all rows or in the median group, whichever is more: after a drift, most rows may be older.
    """
    gains = dataset.target.losses(outcomes, dataset.target.constant(outcomes)) - losses
    return max(float(gains.mean()), median_of_means(gains, groups))


def explain(
    finding: str,
    compared: list[Comparison],
    groups: np.ndarray,
    margin: float,
    rows: str = "held-out rows",
) -> str:
    """Return the reason of a decision: what the challenger is, by which figures and which rule.

    rows : what they are, in the plural.
    """
    with_champion = compared[0]
    rows = f"on {len(groups):,} {rows}{disagreement(with_champion, groups)}"
    if finding == "can't tell":
        unsure = doubt(with_champion, len(groups), margin)
        return f"can't tell if it is worse than {with_champion.interval} {rows}; {unsure}"
    if finding == "worse than the anchor":
        return f"{with_champion} {rows}, but {compared[-1]}, the best of the earlier champions"
    if finding == "dearer":
        dearer = next(filter(is_dearer, compared))
        cost = f"{dearer.cost:.1f} times those of model {dearer.other}"
        return f"{with_champion} {rows}, but its predictions cost {cost} (MODEL_COST=low)"
    return f"{with_champion} {rows}"


def copies(rows: LabeledRows, groups: np.ndarray) -> str:
    """Return how many of the rows are distinct, where copies judge; see rows_that_judge()."""
    hashes = hash_frame(rows.frame)
    if newest_of_equal(hashes, groups).all():
        return ""
    return f"; only {len(np.unique(hashes)):,} of these rows are distinct"


def disagreement(comparison: Comparison, groups: np.ndarray) -> str:
    """Return what the mean over all rows says, where the median group says something else."""
    if comparison.low <= comparison.mean <= comparison.high:
        return ""
    word = "better" if comparison.mean < 0 else "worse"
    size = dataset.target.shown(abs(comparison.mean))
    median = f" in the median of {len(np.unique(groups))} groups by training"
    return f"{median} (over all rows {size} {word})"


def doubt(comparison: Comparison, rows: int, margin: float) -> str:
    """Return what can't be ruled out, and how many rows it takes to.

    With that many, a model that is equal passes with a probability of 80 %: errors fall as
    1 / sqrt(rows).
    """
    if not margin:
        return "only a better model can replace one that is no better than the mean outcome"
    needed = rows * (POWER * comparison.error / margin) ** 2
    more = f": that takes about {needed:,.0f} rows" if needed > rows else ""
    return f"a loss of {dataset.target.shown(margin)} can't be ruled out{more}"
