"""All that the monitor knows, as a function of what it has read, and how it is kept in a file."""

import hashlib
from collections import deque
from collections.abc import Mapping
from itertools import compress

import msgspec
import numpy as np
from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from monitoring.figures.control import Control
from monitoring.figures.curves import Curves, Interval
from monitoring.figures.database import Damaged, Database
from monitoring.figures.decoding import (
    ERROR,
    PREDICTION,
    REQUEST,
    Decoded,
    decode,
    time_of,
)
from monitoring.figures.join import Join
from monitoring.figures.joined import Joined
from monitoring.figures.model_figures import WINDOW, AllModels, ModelFigures, losses_of
from monitoring.figures.newest import Newest
from monitoring.figures.rates import Rates
from monitoring.figures.rows import OUTPUTS, is_known, is_waiting, lacks_a_part
from monitoring.figures.sample import SIZE, Sample
from monitoring.figures.table import Table
from utils.datasets import dataset
from utils.kafka_client.reader import Positions
from utils.kafka_client.records import Position
from utils.kafka_client.topics import APP_MESSAGES, DEAD_LETTER_TOPIC, RETRAIN_TOPIC

LEAST_AGES = 5  # polls, to say that clocks are slow
Records = Mapping[TopicPartition, list[ConsumerRecord]]


class Counts(msgspec.Struct):
    """Exact counts over all that was read."""

    requests: int = 0
    answered: int = 0  # of them
    predictions: int = 0
    error_replies: int = 0
    outcomes: int = 0
    observations: int = 0
    unexpected_replies: int = 0
    unmatched: int = 0
    missed: int = 0
    cut: int = 0  # records that Kafka lost after they were read
    ahead: int = 0  # records with a timestamp in the future
    negative: int = 0  # replies with a timestamp before their request's
    forgotten: int = 0  # requests and outcomes, before what belongs to them came
    first_times: dict[int, int] = {}  # of app_messages, by partition: of the first record read, ms


class Head(msgspec.Struct):
    """The small part of the state."""

    fingerprint: str
    positions: list[tuple[str, int, tuple[int, int, str]]] = []
    counts: Counts = msgspec.field(default_factory=Counts)
    control: Control = msgspec.field(default_factory=Control)
    below: int = -1  # AllModels.below
    newest_known: int = -1


class State:
    """What is known, and the positions behind it; memory and file are bounded.

    Damaged if the database holds something that can't be understood. All of its methods may raise
    Damaged, or sqlite3.OperationalError, which changes nothing: the same call may succeed later.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._saved: dict[str, int] = {}
        self._ages: deque[float] = deque(maxlen=20)  # of the newest request of a poll
        try:
            self._read()
        except (LookupError, TypeError, ValueError, msgspec.MsgspecError) as error:
            raise Damaged(f"{type(error).__name__}: {error}") from None

    def _read(self) -> None:
        database = self.database
        parts = dict(
            database.query("SELECT name, content FROM parts WHERE name NOT LIKE 'model %'")
        )
        head = Head(fingerprint())
        if parts:
            head = msgspec.msgpack.decode(parts["head"], type=Head)
        if head.fingerprint != fingerprint():
            raise Damaged("it is of another data set, or of other topics")
        self.counts, self.control = head.counts, head.control
        self.positions: Positions = {
            TopicPartition(topic, number): Position(*place)
            for topic, number, place in head.positions
        }
        self.waiting = Table(database, "waiting", is_waiting, is_open=lambda row: True)
        self.known = Table(database, "known", is_known, lacks_a_part)
        self.join = Join(self.waiting, self.known)
        self.rates, self.curves, self.models = Rates(), Curves(), AllModels()
        self.models.below, self.models.newest_known = head.below, head.newest_known
        self.losses = Newest(WINDOW, [("loss", np.float64)], parts.get("losses", b""))
        self.delays = Newest(WINDOW, [("delay", np.int64)], parts.get("delays", b""))
        scores = [("model_id", np.int64), ("scores", np.float64, (OUTPUTS,))]
        self.scores = Newest(SIZE, scores, parts.get("scores", b""))
        self.sample = Sample(parts.get("sample", b""))
        self._read_rest()

    def _read_rest(self) -> None:
        sql = "SELECT name, content FROM parts WHERE name LIKE 'model %'"
        for name, content in self.database.query(sql):
            self.models.by_id[int(name.split()[1])] = ModelFigures.from_state(content)
        for span, place, content in self.database.query("SELECT * FROM intervals"):
            interval = msgspec.msgpack.decode(content, type=Interval)
            self.curves.rings[span].intervals[place] = interval

    def add(
        self, records: Records, now: float, is_fresh: bool = False, decoded: Decoded | None = None
    ) -> Joined:
        """Add what one poll has returned.

        now : seconds since 1970; is_fresh : the records have been sent just now. decoded : the
        records, if they are decoded already.
        """
        decoded = decoded or decode(records, now)
        messages, outcomes, latest = decoded.messages, decoded.outcomes, decoded.latest
        self.join.load(messages, outcomes)  # first: if it fails, nothing has changed
        for partition, found in records.items():
            self.counts.ahead += sum(each.timestamp > latest for each in found)
            if partition.topic == APP_MESSAGES:
                first = time_of(found[0], latest)
                self.counts.first_times.setdefault(partition.partition, first)
            elif partition.topic == DEAD_LETTER_TOPIC:
                self.control.add_letters(found)
            elif partition.topic == RETRAIN_TOPIC:
                self.control.add_control(found, latest)
        return self._add_messages(messages, outcomes, now, is_fresh)

    @property
    def clock_error(self) -> float:
        """How many seconds the clocks of all senders of requests are slow; 0 if one is right."""
        return max(min(self._ages), 0.0) if len(self._ages) >= LEAST_AGES else 0.0

    def _add_messages(self, found: list, outcomes: list, now: float, is_fresh: bool) -> Joined:
        joined = self.join.join(found, outcomes)
        kinds, times = (np.array([each[i] for each in found], np.int64) for i in (0, 2))
        requests = times[kinds == REQUEST]
        if len(requests) and is_fresh:
            self._ages.append(now - int(requests.max()) / 1000)
        replies = times[(kinds == PREDICTION) | (kinds == ERROR)]
        self._count(kinds, joined)
        losses = losses_of(joined.observations)
        self.models.add(joined.answers, joined.observations, losses)
        self.curves.add(requests, joined.answers, joined.observations, losses, now)
        self.sample.add(compress(found, kinds == REQUEST))
        self._add_newest(joined, losses)
        reported = np.array([each[1] for each in outcomes], np.int64)
        self.rates.add(requests, replies, reported, now=now)
        return joined

    def _count(self, kinds: np.ndarray, joined: Joined) -> None:
        counts, answers = self.counts, joined.answers
        counts.requests += int((kinds == REQUEST).sum())
        counts.answered += int(answers.were_valid.sum())
        counts.predictions += int((kinds == PREDICTION).sum())
        counts.error_replies += int((kinds == ERROR).sum())
        counts.outcomes += joined.outcomes
        counts.observations += int(np.isnan(joined.observations.before).sum())
        counts.unexpected_replies += joined.unexpected
        counts.unmatched += joined.unmatched
        counts.negative += int((answers.latencies < 0).sum())

    def _add_newest(self, joined: Joined, losses: np.ndarray) -> None:
        answers, seen = joined.answers, joined.observations
        chosen = answers.are_predictions & (answers.rows["offset"] >= 0)
        self.scores.add(answers.rows[chosen])
        self.losses.add(seen.rows, loss=losses[0])
        reported = seen.delays >= 0
        self.delays.add(seen.rows[reported], delay=seen.delays[reported])

    @property
    def unsaved(self) -> int:
        """How many rows of the tables are in memory only."""
        return self.waiting.unsaved + self.known.unsaved

    def save(self, now: float) -> None:
        """Write everything that has changed, in one transaction; sqlite3.Error if that fails."""
        versions = {name: getattr(self, name).version for name in _PARTS}
        changed = [name for name in _PARTS if versions[name] != self._saved.get(name, 0)]
        parts = [(name, getattr(self, name).tobytes()) for name in changed]
        parts += [
            (f"model {each}", self.models.by_id[each].state()) for each in self.models.changed
        ]
        parts.append(("head", msgspec.msgpack.encode(self._head())))
        with self.database.transaction() as write:
            write("REPLACE INTO parts VALUES (?, ?)", parts)
            write("DELETE FROM parts WHERE name = ?", [(f"model {m}",) for m in self.models.gone])
            self._save_curves(now)
            self.waiting.save(now)
            self.known.save(now)
        self._confirm(versions)

    def _save_curves(self, now: float) -> None:
        for span, ring in self.curves.rings.items():
            ring.forget(now)
            rows = [
                (span, each, msgspec.msgpack.encode(ring.intervals[each])) for each in ring.changed
            ]
            self.database.write("REPLACE INTO intervals VALUES (?, ?, ?)", rows)
            gone = [(span, each) for each in ring.gone]
            self.database.write("DELETE FROM intervals WHERE span = ? AND place = ?", gone)

    def _confirm(self, versions: dict[str, int]) -> None:
        self._saved = versions
        for each in (self.models, *self.curves.rings.values()):
            each.changed.clear()
            each.gone.clear()
        self.waiting.confirm()
        self.known.confirm()

    def forget_old(self, since: float) -> None:
        """Delete rows of the tables from before this time, and those beyond their limit."""
        tables = self.waiting, self.known
        old = [each.old_generations(since) for each in tables]
        with self.database.transaction():
            found = sum(each.delete(some) for each, some in zip(tables, old, strict=True))
        self.counts.forgotten += found
        for table, generations in zip(tables, old, strict=True):
            table.forget(generations)

    def forget_unsaved(self) -> None:
        """Forget the oldest rows in memory, which can't be written."""
        self.counts.forgotten += self.waiting.forget_unsaved() + self.known.forget_unsaved()

    def _head(self) -> Head:
        positions = [(*partition, tuple(place)) for partition, place in self.positions.items()]
        models = self.models
        return Head(
            fingerprint(), positions, self.counts, self.control, models.below, models.newest_known
        )


_PARTS = ("losses", "delays", "scores", "sample")


def fingerprint() -> str:
    """Return a digest of what the state depends on beside the topics' content."""
    target = dataset.target
    what = [dataset.name, target.kind, target.labels, dataset.names, dataset.numeric, APP_MESSAGES]
    return hashlib.sha256(msgspec.json.encode(what)).hexdigest()
