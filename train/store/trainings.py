"""The counters of the trainer's store, and the trainings: which are due, have begun, have ended."""

from typing import TYPE_CHECKING

from utils.telemetry import telemetry

if TYPE_CHECKING:
    from train.store.database import Database
    from train.store.postgres import Postgres

_REPLACE_TRAINING = """
INSERT INTO trainings VALUES (?, ?)
    ON CONFLICT (number) DO UPDATE SET observations = excluded.observations
"""


class Trainings:
    """The part of Observations that is about trainings."""

    def __init__(self, database: "Database | Postgres") -> None:
        self._db = database

    def counter(self, name: str) -> int:
        """Return a counter; train/store/schema.py has their names."""
        return self._db.query("SELECT value FROM counters WHERE name = ?", (name,))[0][0]

    def _increase(self, **steps: int) -> None:
        self._db.execute_many(
            "UPDATE counters SET value = value + ? WHERE name = ?",
            [(step, name) for name, step in steps.items() if step],
        )

    def _set(self, **values: int) -> None:
        self._db.execute_many(
            "UPDATE counters SET value = ? WHERE name = ?",
            [(value, name) for name, value in values.items()],
        )

    def ask_by_hand(self) -> None:
        """Make a training due now, whatever the counts are; safe while a trainer is running."""
        with self._db.transaction():
            self._increase(asked_by_hand=1)

    def training_due(self, retrain_every: int) -> int | None:
        """Return how many retrain requests a training would cover, or None if no training is due.

        Retraining waits for outcomes: a training covers retrain requests, and `retrain_every`
        observations for each of them. With one value of `retrain_every` these are the first
        min(R, O // retrain_every) of R retrain requests, O being the observations so far. A
        training asked for by hand does not wait.
        """
        requests = self.counter("retrain_requests")
        covered = self.counter("retrain_requests_covered")
        by_hand = self.counter("asked_by_hand") > self.counter("asked_by_hand_covered")
        if requests <= covered and not by_hand:
            return None
        if retrain_every != self.counter("retrain_every"):
            self._change_retrain_every(retrain_every, requests - covered)
        new = self.counter("observations") - self.counter("observations_covered")
        due = covered + min(requests - covered, new // retrain_every)
        return max(due, covered) if due > covered or by_hand else None

    def _change_retrain_every(self, retrain_every: int, waiting: int) -> None:
        """Count the observations covered in a new unit, which `retrain_every` is.

        Of those not covered at most what the waiting requests stand for remains, and less than one
        more request: otherwise a smaller value would make trainings due that have nothing new.
        """
        observations, before = self.counter("observations"), self.counter("retrain_every")
        covered = self.counter("observations_covered")
        if not before:  # a new store, or one of an earlier version, which did not keep the value
            covered = self.counter("retrain_requests_covered") * retrain_every
        least = observations + 1 - (max(waiting, 0) + 1) * retrain_every if before else 0
        with self._db.transaction():
            self._set(
                observations_covered=min(max(covered, least), observations),
                retrain_every=retrain_every,
            )

    def begin_training(self, requests_covered: int, at_least: int) -> int:
        """Record that a training begins; return the id of its model, which was never used before.

        requests_covered : as training_due() returned it; at_least : the smallest id allowed.
        """
        with self._db.transaction():
            model_id = self._next_model_id(at_least)
            self._set(
                training_model_id=model_id,
                training_covers=requests_covered,
                training_asked=self.counter("asked_by_hand"),
            )
            # Observations that become complete between now and the child's snapshot are used by
            # this training too, but count as new ones of the next.
            border = (self.counter("trainings") + 1, self.counter("observations"))
            self._db.query(_REPLACE_TRAINING, border)
        return model_id

    def new_model_id(self, at_least: int) -> int:
        """Return the id for a model that is no training's; safe while a trainer is running.

        It was never used before, nor will it be by a training; at_least : the smallest allowed.
        """
        with self._db.transaction():
            return self._next_model_id(at_least)

    def _next_model_id(self, at_least: int) -> int:
        model_id = max(self.counter("last_model_id") + 1, at_least)
        self._set(last_model_id=model_id)
        return model_id

    def unfinished_training(self) -> tuple[int, int] | None:
        """Return (model_id, requests_covered) of a training that has begun and not ended."""
        model_id = self.counter("training_model_id")
        return (model_id, self.counter("training_covers")) if model_id else None

    def abandon_training(self) -> None:
        """Record that a training ended without a result: what it would cover is still due."""
        with self._db.transaction():
            self._set(training_model_id=0)

    def end_training(self, requests_covered: int, result: str = "") -> None:
        """Record that a training has ended: the requests it covers are done.

        result : "promoted", "rejected" or "failed", for the metrics of this process.
        """
        was_running = self.counter("training_model_id")  # a failed call is repeated as a whole
        with self._db.transaction():
            # A training without new observations gets no number: the judge compares models on the
            # observations that the last trainings added.
            number = self.counter("trainings") + 1
            last_two = "SELECT number, observations FROM trainings WHERE number >= ?"
            sizes = dict(self._db.query(last_two, (number - 1,)))
            if sizes.get(number, 0) > sizes.get(number - 1, 0):
                self._increase(trainings=1)
            requests = max(requests_covered - self.counter("retrain_requests_covered"), 0)
            self._increase(observations_covered=requests * self.counter("retrain_every"))
            self._set(
                retrain_requests_covered=requests_covered,
                asked_by_hand_covered=self.counter("training_asked"),
                training_model_id=0,
            )
        if was_running:
            telemetry.trainer.add_result(result)

    def note_announced(self, model_id: int) -> None:
        """Record which champion was announced last."""
        with self._db.transaction():
            self._set(announced_model_id=model_id)
