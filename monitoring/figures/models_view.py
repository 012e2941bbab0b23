"""The models as their cards and the announcements show them."""

import re
import time
from contextlib import suppress

from monitoring.figures.control import Verdict
from monitoring.figures.decoding import NO_MODEL
from monitoring.figures.model_figures import MOST_MODELS
from monitoring.figures.state import State
from monitoring.snapshot import ModelState
from utils.model_store.archive import Archive
from utils.model_store.card import Card
from utils.model_store.registry import ModelError, Registry
from utils.model_store.storage import StorageAway
from utils.settings import settings

LOOK_EVERY = 2.0  # seconds between two looks into the folder
_ROLES = {"promoted": "former", "rejected": "rejected"}


class Models:
    """The newest cards in MODELS_DIR, read again when they change, and archived ones."""

    def __init__(self) -> None:
        self._registry = Registry()
        self._cards: dict[int, tuple[object, Card | None]] = {}  # by id: the file's mark, card
        self._archived: dict[int, Card] = {}  # of deleted models
        self._searched: object = None  # what the archive was when it was searched, for which ids
        self.problems: list[str] = []
        self._looked_at = 0.0
        self._in_training: int | None = None
        self.champion: int | None = None

    @property
    def champion_card(self) -> Card | None:
        """The champion's card; None if it can't be read."""
        return self.card(self.champion)

    def card(self, model_id: int | None) -> Card | None:
        """Return a model's card; None if there is none that can be read."""
        return self._cards.get(model_id, (0, None))[1] or self._archived.get(model_id)

    def update(self, state: State) -> None:
        """Look into the folder, if it is time to, and tell the state which ids are real."""
        champion = self._registry.glance()
        is_new = champion != self.champion
        self.champion = state.control.champion if champion is None else champion
        is_time = is_new or time.monotonic() > self._looked_at + LOOK_EVERY
        if is_time and not self._registry.storage.is_away:
            self._looked_at = time.monotonic()
            with suppress(StorageAway):  # the last look counts
                self._look()
                self._search_archive(_known_to(state) - self._cards.keys())
        # Announcements can be forged; they count only where the models' folder can't be read.
        announced = [each.model_id for each in state.control.verdicts if each.kind != "failed"]
        known = self._cards or {each for each in announced if each is not None}
        state.models.newest_known = max([state.models.newest_known, *known])

    def _look(self) -> None:
        marks = self._registry.marks()
        ids, self.problems = [*marks][-MOST_MODELS:], []
        deleted = {each: card for each, card in self._cards.items() if each not in ids}
        newest = sorted(deleted)[-MOST_MODELS:]
        self._cards = {model_id: self._read(model_id, marks[model_id]) for model_id in ids}
        self._cards |= {model_id: deleted[model_id] for model_id in newest}
        names = (each.name for each in settings.data_dir.glob("attempt-*"))
        attempts = [
            int(found[1]) for found in (re.fullmatch(r"attempt-(\d+)", n) for n in names) if found
        ]
        self._in_training = max(attempts, default=None)

    def _search_archive(self, deleted: set[int]) -> None:
        archive = Archive(self._registry.place)
        if self._searched == (search := (archive.storage.state(), deleted)):
            return
        found = archive.cards(*deleted) if deleted else ()
        # The last one counts: after `make clean`, ids are given out again.
        self._archived = {card.model_id: card for card in found}
        self._searched = search

    def _read(self, model_id: int, mark: object) -> tuple[object, Card | None]:
        if self._cards.get(model_id, (None, None))[0] == mark and self.card(model_id):
            return self._cards[model_id]
        try:
            return mark, self._registry.card(model_id)
        except ModelError as error:
            self.problems.append(f"card of {error}")
            return None, None

    def states(self, state: State) -> list[ModelState]:
        """Return what is known of each model, newest first."""
        verdicts = {each.model_id: each for each in state.control.verdicts}
        ids = {*self._cards, *_known_to(state), self._in_training} - {None}
        return [
            self._state(model_id, state, verdicts.get(model_id))
            for model_id in sorted(ids, reverse=True)
        ]

    def _state(self, model_id: int, state: State, verdict: Verdict | None) -> ModelState:
        card, found = self.card(model_id), ModelState(model_id, self._role(model_id, verdict))
        if card:
            found.why, found.created = card.why, card.created
            found.trees, found.rows = card.trees, card.rows
        if verdict:
            found.why = found.why or verdict.why
        if model := state.models.by_id.get(model_id):
            totals = model.totals
            found.answers, found.outcomes = totals.answers, totals.outcomes
            if totals.answers:
                found.first_answer = totals.first_answer / 1000
                found.last_answer = totals.last_answer / 1000
            found.window, found.mean_loss = len(model.window.rows()), model.mean_loss
            found.figures, found.loss_of_mean, *rest = model.figures()
            found.is_useless, found.calibration = rest
        return found

    def _role(self, model_id: int, verdict: Verdict | None) -> str:
        card = self.card(model_id)
        if model_id == self.champion:
            return "champion"
        if model_id == self._in_training and not card:
            return "training"
        if model_id == NO_MODEL or not (card or verdict):
            return "unknown"
        if card and card.decision == "rejected":
            return "rejected"
        return _ROLES.get(verdict.kind, "unknown") if verdict else "former"


def _known_to(state: State) -> set[int]:
    """Return the ids of the models that have answered or were announced, the newest of these."""
    announced = list({each.model_id: None for each in state.control.verdicts})[-MOST_MODELS:]
    return {*state.models.by_id, *announced} - {None}
