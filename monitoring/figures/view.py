"""From what is known to what is shown: monitoring/snapshot.py."""

import math

import numpy as np

from monitoring.figures.control import MOST_MARKS
from monitoring.figures.curves import SPANS
from monitoring.figures.exact import quantile
from monitoring.figures.models_view import Models
from monitoring.figures.rows import oldest_request
from monitoring.figures.state import State
from monitoring.snapshot import (
    Drift,
    Flow,
    Following,
    History,
    Latency,
    Mark,
    OutcomeDelay,
    Snapshot,
)
from utils.datasets import dataset

SLOW = 5.0  # seconds that a request may be old when it comes
MOST_SCANNED = 20_000  # waiting requests in memory, among which the oldest is looked for


def snapshot(
    state: State, models: Models, drift: list[Drift], now: float, behind: float, notes: list[str]
) -> Snapshot:
    """Return everything at a moment; `behind` and `notes` : as in Following."""
    firsts = [each / 1000 for each in state.counts.first_times.values() if each > 0]
    counts = state.counts
    following = Following(behind, counts.missed, counts.unmatched, [*notes, *_notes(state, models)])
    return Snapshot(
        time=now,
        started=min(firsts, default=None),
        dataset=dataset.name,
        loss=dataset.target.loss,
        champion=models.champion,
        flow=_flow(state, now),
        latency=_latency(state, now),
        outcome_delay=_outcome_delay(state, now),
        training=state.control.training,
        models=models.states(state),
        drift=drift,
        alerts=[],
        marks=marks(state),
        following=following,
    )


def history(state: State, models: Models, span: str, now: float) -> History:
    """Return the curves over a span, and the marks in it."""
    interval = SPANS[span]
    points = state.curves.points(span, now)
    begin = points[0].time if points else now
    return History(span, interval, points, [each for each in marks(state) if each.time >= begin])


def marks(state: State) -> list[Mark]:
    """Return the newest marks, oldest first, with each model's first answer."""
    first_answers = [
        Mark(model.totals.first_answer / 1000, "answers", f"model {model_id} answers", model_id)
        for model_id, model in state.models.by_id.items()
        if model.totals.answers
    ]
    return sorted([*state.control.marks, *first_answers], key=lambda each: each.time)[-MOST_MARKS:]


def _flow(state: State, now: float) -> Flow:
    counts, control = state.counts, state.control
    requests, replies, outcomes = state.rates.per_second(now)
    slow = state.clock_error if state.clock_error > SLOW else 0.0
    oldest = state.waiting.oldest(MOST_SCANNED, oldest_request)
    return Flow(
        requests=counts.requests,
        predictions=counts.predictions,
        error_replies=counts.error_replies,
        dead_letters=control.dead_letters,
        outcomes=counts.outcomes,
        observations=counts.observations,
        retrain_requests=control.retrain_requests,
        unexpected_replies=counts.unexpected_replies,
        requests_per_second=requests,
        replies_per_second=replies,
        outcomes_per_second=outcomes,
        unanswered=counts.requests - counts.answered,
        oldest_unanswered=None if oldest == math.inf else max(now - slow - oldest / 1000, 0.0),
        errors=dict(control.errors),
    )


def _latency(state: State, now: float) -> Latency:
    counts = state.curves.latencies(now)
    return Latency(quantile(counts, 0.5), quantile(counts, 0.99), sum(counts.values()))


def _outcome_delay(state: State, now: float) -> OutcomeDelay:
    delays = state.delays.rows()["delay"] / 1000
    if not len(delays):
        return OutcomeDelay()
    p50, p99 = np.quantile(delays, [0.5, 0.99], method="inverted_cdf").tolist()
    return OutcomeDelay(p50, p99, state.curves.never(p99, now))


def _notes(state: State, models: Models) -> list[str]:
    """Return in words what the figures miss."""
    counts, slow = state.counts, state.clock_error
    said = {
        f"{counts.missed:,} records were deleted by Kafka before they were read": counts.missed,
        f"Kafka lost {counts.cut:,} records after they were read: they are counted": counts.cut,
        f"outcomes of predictions that are not known: {counts.unmatched:,}": counts.unmatched,
        f"{counts.forgotten:,} requests or outcomes are too old to be joined": counts.forgotten,
        f"{counts.ahead:,} records have times in the future: a clock is wrong": counts.ahead,
        f"requests come with times of {slow:,.0f} s ago: clocks are slow, and latencies are "
        "wrong": slow > SLOW,
        f"{counts.negative:,} replies are older than their requests: clocks differ, and "
        "latencies are wrong": counts.negative,
        "the champion's card has no histograms of its training set, so drift is not known": bool(
            models.champion_card and not models.champion_card.reference
        ),
    }
    return [text for text, holds in said.items() if holds] + models.problems
