"""Looks for drift now and then, and notes when one begins and ends."""

import numpy as np

from monitoring.figures.control import Control, Rise
from monitoring.figures.drift import (
    drift_of_columns,
    drift_of_loss,
    drift_of_scores,
    independent_share,
)
from monitoring.figures.state import State
from monitoring.snapshot import Drift
from utils.model_store.card import Card

LOOK_EVERY = 5.0  # seconds: it takes some milliseconds
NEWEST = 500  # losses that tell whether a rise is over


class DriftWatch:
    """The drift at the last look."""

    def __init__(self) -> None:
        self._looked_at = float("-inf")
        self._found: list[Drift] = []
        self._model: int | None = None

    def look(self, state: State, card: Card | None, now: float) -> list[Drift]:
        """Return what has drifted, and what has not; a new champion has other references."""
        model_id = card.model_id if card else None
        # Clocks can be set back.
        if abs(now - self._looked_at) >= LOOK_EVERY or model_id != self._model:
            self._looked_at, self._model = now, model_id
            before = state.control.drifting
            self._found = _drift(state, card)
            for each in self._found:
                if each.drifted:
                    each.since = each.since or before.get(each.name, now)
            self._note_changes(state, now)
        return self._found

    def _note_changes(self, state: State, now: float) -> None:
        drifting = {each.name: each.since for each in self._found if each.drifted}
        before = state.control.drifting
        for each in self._found:
            if each.drifted and each.name not in before:
                text = f"{each.name}: {each.value:.3g}, by chance at most {each.threshold:.3g}"
                state.control.mark(now, "drift", text, self._model)
        for name in before.keys() - drifting.keys():
            state.control.mark(now, "end", f"{name} no longer drifts", self._model)
        state.control.drifting = drifting


def lasting_rise(
    control: Control, times: np.ndarray, losses: np.ndarray, model_id: int | None
) -> Drift | None:
    """Return drift_of_loss(), where a rise lasts until the loss is as before it.

    Otherwise it would be over when all of the newest losses are equally high. It is over, too, when
    another champion answers: from then on its losses are the usual ones.
    """
    found, rise = drift_of_loss(times, losses), control.rise
    if found is None:
        return None
    if found.drifted:
        before = float(losses[times < found.since * 1000].mean())
        control.rise = rise or Rise(before, found.threshold, found.since, model_id)
    elif rise:
        more = float(losses[-NEWEST:].mean()) - rise.before
        if more > rise.threshold and model_id == rise.model_id:
            found.value, found.threshold = more, rise.threshold
            found.drifted, found.since = True, rise.since
        else:
            control.rise = None
    return found


def _drift(state: State, card: Card | None) -> list[Drift]:
    rows, model_id = state.losses.rows(), card.model_id if card else None
    found = [lasting_rise(state.control, rows["time"], rows["loss"], model_id)]
    if card and card.reference:
        data = state.sample.data()
        found += drift_of_columns(data, card)
        answers = state.scores.rows()
        scores = answers["scores"][answers["model_id"] == card.model_id]
        share = independent_share(data, card)
        found.append(drift_of_scores(scores, card, share) if len(scores) else None)
    return [each for each in found if each]
