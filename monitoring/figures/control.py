"""What retrain_topic and dead_letter_topic say: trainings, champions, marks, reasons of errors."""

import re
from collections.abc import Iterable

import msgspec
from kafka.consumer.fetcher import ConsumerRecord

from monitoring.figures.decoding import time_of
from monitoring.snapshot import Mark, Training
from utils.console import printable
from utils.kafka_client.dead_letters import decode_letter, is_letter
from utils.messages import ControlMessage, decode_control

MOST_MARKS = 500
MOST_RETRAIN_MARKS = 100  # there may be thousands a second, which would hide the others
MOST_ENDS = 1_000
MOST_REASONS = 50
OTHERS = "others"


class Verdict(msgspec.Struct):
    """How a training ended, as announced."""

    model_id: int | None
    kind: str  # promoted, rejected, failed
    why: str


class Rise(msgspec.Struct):
    """A rise of the loss that lasts."""

    before: float  # mean loss before it
    threshold: float  # what chance explained when it was found
    since: float
    model_id: int | None  # the champion then


class Control(msgspec.Struct):
    """What was announced so far."""

    training: Training = msgspec.field(default_factory=Training)
    retrain_requests: int = 0
    verdicts: list[Verdict] = []  # newest last
    champion: int | None = None
    marks: list[Mark] = []
    dead_letters: int = 0
    errors: dict[str, int] = {}
    drifting: dict[str, float] = {}  # what has drifted, and since when
    rise: Rise | None = None

    def add_control(self, records: Iterable[ConsumerRecord], latest: int) -> None:
        """Add records of retrain_topic; latest : see time_of()."""
        for record in records:
            message, time = decode_control(record.value), time_of(record, latest) / 1000
            if message is not None and message.retrain:
                self.retrain_requests += 1
                text = f"retrain request {self.retrain_requests:,}"
                self._mark(Mark(time, "retrain", text, message.model_id))
            elif message is not None:
                self._add_verdict(message, time)

    def _add_verdict(self, message: ControlMessage, time: float) -> None:
        kind, why = _ending(message)
        verdict = Verdict(message.model_id, kind, printable(why)[:500])
        if verdict in self.verdicts:  # a crash of the trainer repeats announcements
            if kind == "promoted":
                self._promote(verdict, time)
            return
        self.verdicts = [*self.verdicts, verdict][-MOST_ENDS:]
        if message.retrain_requests_covered is not None:  # otherwise promoted by hand
            name = {"promoted": "completed"}.get(kind, kind)
            setattr(self.training, name, getattr(self.training, name) + 1)
            self.training.last_end = time
        if kind == "promoted":
            self._promote(verdict, time)
        else:
            self._mark(Mark(time, kind, verdict.why, verdict.model_id))

    def _promote(self, verdict: Verdict, time: float) -> None:
        if verdict.model_id != self.champion:
            self.champion = verdict.model_id
            self._mark(Mark(time, "promoted", verdict.why, verdict.model_id))

    def _mark(self, mark: Mark) -> None:
        self.marks.append(mark)
        retrain = [each for each in self.marks if each.kind == "retrain"]
        if mark.kind == "retrain" and len(retrain) > MOST_RETRAIN_MARKS:
            self.marks.remove(retrain[0])
        elif len(self.marks) - len(retrain) > MOST_MARKS:
            self.marks.remove(next(each for each in self.marks if each.kind != "retrain"))

    def mark(self, time: float, kind: str, text: str, model_id: int | None = None) -> None:
        """Add a mark of another origin."""
        self._mark(Mark(time, kind, text, model_id))

    def add_letters(self, records: Iterable[ConsumerRecord]) -> None:
        """Add records of dead_letter_topic."""
        for record in filter(is_letter, records):
            self.dead_letters += 1
            reason = decode_letter(record).facts.get("reason", "no reason")
            # What follows is the sender's value, or where in it the mistake is.
            kind = printable(re.split(r", got |: '", reason)[0])[:80]
            if kind not in self.errors and len(self.errors) >= MOST_REASONS:
                kind = OTHERS
            self.errors[kind] = self.errors.get(kind, 0) + 1


def _ending(message: ControlMessage) -> tuple[str, str]:
    if message.training_completed:
        return "promoted", message.why
    if message.training_rejected:
        return "rejected", message.training_rejected
    return "failed", message.training_failed
