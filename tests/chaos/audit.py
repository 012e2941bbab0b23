"""Compares the topics, the store and the folders with what the pipeline promises.

Reads them directly, with no code of the pipeline.
"""

import hashlib
import json
import sqlite3
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
from kafka import KafkaConsumer, TopicPartition
from rich.table import Table

from tests.chaos.faults import DATA_LOSS
from tests.chaos.marker_watch import compare
from tests.chaos.witness import Fault, Load
from tests.harness.pipeline import Pipeline

TRAINING_ROWS = 32_561  # of adult.data


Connection = sqlite3.Connection | psycopg.Connection


class Audit:
    """Collects the violations of promises, and the figures of a run."""

    def __init__(
        self, pipeline: Pipeline, load: Load, faults: list[Fault], retrain_every: int
    ) -> None:
        self.violations: list[str] = []
        self._faults = faults
        self._pipeline, self._load, self._every = pipeline, load, retrain_every
        self._models = pipeline.folder / "models"
        self.requests: dict[int, list[tuple[int, str]]] = defaultdict(list)  # (offset, id)
        self.lost = self.duplicates = self.orphans = self.deleted = self.in_log = 0
        self.damaged = self.forgotten = 0
        self.control: list[dict] = []
        self.marker_watch: Path | None = None  # the output of marker_watch.py
        self.would_be_written = ""

    def check(self, kept: bool, violation: str) -> None:
        """Note a violation if a promise was not kept."""
        if not kept:
            self.violations.append(violation)

    def wait_for(self, what: str, condition: Callable[[], bool], timeout: float) -> None:
        """Wait until the condition holds; a violation after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not (holds := condition()) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.check(holds, f"{what}: did not come within {timeout} s")

    @property
    def _has_lost_data(self) -> bool:
        return any(fault.kind in DATA_LOSS for fault in self._faults)

    @property
    def _acknowledged(self) -> set[str]:
        """The requests that Kafka has acknowledged, without those that it may have lost since."""
        since = max((fault.over for fault in self._faults if fault.kind in DATA_LOSS), default=0)
        return {name for name, when in self._load.acknowledged.items() if when > since}

    def all_is_answered(self) -> bool:
        """True when every acknowledged request has an answer."""
        return self._acknowledged <= self._load.answered

    def all_is_trained(self) -> bool:
        """True when the trainer has read everything and no training is due or under way."""
        control = self._pipeline.messages("retrain_topic")
        counters, ids = self._store()
        return (
            len(ids) >= len(self._load.answered)
            and counters["retrain_requests"] == sum("retrain" in m for m in control)
            and counters["retrain_requests_covered"] == self._due(counters, ids)
            and not counters["training_model_id"]
        )

    def run(self) -> None:
        """Audit everything; call it when all scripts have ended."""
        self._audit_load(self.audit_answers())
        self.control = self._pipeline.messages("retrain_topic")
        for partition, requests in self.requests.items():
            self._audit_counts(partition, requests)
        self._audit_store()
        self._audit_announcements()
        self._audit_models()
        self._audit_output()
        if self.marker_watch:
            topic = self._pipeline.records("app_messages")
            self.would_be_written = compare(self.marker_watch, topic)

    def audit_answers(self, may_wait: bool = False) -> Counter:
        """Check that each request in the log has one answer; return how often each is there.

        may_wait : of a topic that is about to be deleted: requests may have no answer yet.
        """
        self.requests.clear()
        asked, answered = Counter(), Counter()
        for record in self._pipeline.records("app_messages"):
            message = json.loads(record.value)
            key = record.partition, message["request_id"]
            if "data" in message:
                self.requests[record.partition].append((record.offset, message["request_id"]))
                asked[key] += 1
            else:
                answered[key] += 1
                self.check("prediction" in message, f"no prediction: {message}")
        self.in_log += asked.total()
        if self._has_lost_data:
            # What was read before its topic was deleted may be answered in the new one.
            orphans = Counter({key: n for key, n in answered.items() if not asked[key]})
            self.orphans += orphans.total()
            answered -= orphans
        lost, extra = asked - answered, answered - asked
        self.duplicates += extra.total()
        self.check(not extra, f"duplicate answers: {extra.total()}, e.g. {list(extra)[:3]}")
        if may_wait:
            self.deleted += lost.total()
        else:
            self.lost += lost.total()
            self.check(not lost, f"lost: {lost.total()}, e.g. {list(lost)[:3]}")
        return asked

    def _audit_load(self, asked: Counter) -> None:
        # These two would be errors of Kafka or of its client, and make the run useless.
        missing = self._acknowledged - {request_id for _, request_id in asked}
        self.check(not missing, f"acknowledged, but not in the log: {len(missing)} requests")
        self.check(len(asked) == asked.total(), "the producer sent requests twice")

    def _audit_counts(self, partition: int, requests: list[tuple[int, str]]) -> None:
        borders = requests[self._every - 1 :: self._every]
        expected = [(k, offset) for k, (offset, _) in enumerate(borders, 1)]
        mine = [m for m in self.control if m.get("retrain") and m["partition"] == partition]
        found = [(m["batch_id"], m["offset"]) for m in mine]
        wrong = sorted(set(found) ^ set(expected))[:3] or "order or number"
        # A retrain request that was sent before Kafka lost its requests is still there.
        as_expected = set(expected) <= set(found) if self._has_lost_data else found == expected
        self.check(as_expected, f"wrong retrain requests of partition {partition}: {wrong}")
        count = self._committed_count(partition)
        self.check(
            count == len(requests), f"partition {partition} counts {count}, not {len(requests)}"
        )

    def _committed_count(self, partition: int) -> int | None:
        group, topic = self._pipeline.prefix + "predictors", self._pipeline.prefix + "app_messages"
        client = {"bootstrap_servers": self._pipeline.host, "enable_auto_commit": False}
        with closing(KafkaConsumer(**client, group_id=group)) as consumer:
            committed = consumer.committed(TopicPartition(topic, partition), metadata=True)
        return json.loads(committed.metadata)["count"] if committed else None

    def _store(self) -> tuple[dict[str, int], set[bytes]]:
        """Return the trainer's counters, and the keys of its complete observations."""
        with closing(self._connect()) as db:
            counters = dict(db.execute("SELECT name, value FROM counters"))
            return counters, {key for (key,) in db.execute("SELECT key FROM positions")}

    def _connect(self) -> Connection:
        if isinstance(place := self._pipeline.place, Path):
            return sqlite3.connect(f"file:{place}?mode=ro", uri=True)
        schema = f"-c search_path={place.schema}"
        return psycopg.connect(place.url.get_secret_value(), options=schema)

    def _due(self, counters: dict[str, int], ids: set[bytes]) -> int:
        return min(counters["retrain_requests"], len(ids) // self._every)

    def _audit_store(self) -> None:
        counters, ids = self._store()
        requests = (each for partition in self.requests.values() for each in partition)
        known = {hashlib.blake2b(i.encode(), digest_size=16).digest() for _, i in requests}
        differ = known - ids if self._has_lost_data else known ^ ids
        self.check(not differ, f"the store and the log differ in {len(differ)} requests")
        asked, covered = counters["retrain_requests"], counters["retrain_requests_covered"]
        sent = sum("retrain" in m for m in self.control)
        self.check(asked == sent, f"the store has {asked} retrain requests, the log has {sent}")
        due = self._due(counters, ids)
        self.check(covered == due, f"{covered} retrain requests are covered, {due} are due")

    def _audit_announcements(self) -> None:
        new = [m for m in self.control if "training_completed" in m]
        for name in ("model_id", "observations", "retrain_requests_covered"):
            values = [m[name] for m in new if name in m]
            self.check(values == sorted(values), f"announced {name} decreased: {values}")
        # After a crash an announcement may be repeated, but unchanged.
        new = [m for m in new if "observations" in m]  # the others name the champion only
        different = {json.dumps(m, sort_keys=True) for m in new}
        self.check(len({m["model_id"] for m in new}) == len(different), "a model id was used twice")

    def _audit_models(self) -> None:
        champion = json.loads((self._models / "champion.json").read_bytes())["model_id"]
        self.check((self._models / f"model_{champion}.p").exists(), f"no champion {champion}")
        total = len(self._store()[1])
        for model in self._models.glob("model_*.p"):
            digest = hashlib.sha256(model.read_bytes()).hexdigest()
            card_path = model.with_suffix(".json")
            card = json.loads(card_path.read_bytes()) if card_path.exists() else {}
            self.damaged += card.get("digest") != digest
            self.check(card.get("digest") == digest, f"{model.name} does not match its card")
            observations = card.get("observations", 0)
            self.check(observations <= total, f"{card_path.name}: {observations} observations")
            rows = card.get("rows", 0) + card.get("judge_rows_held_out", 0)
            self.check(rows == TRAINING_ROWS + observations, f"{card_path.name}: {rows} rows")
        for folder in (self._models, self._models.parent / "data"):
            leftovers = [path.name for path in (*folder.glob(".*"), *folder.glob("attempt-*"))]
            self.check(not leftovers, f"leftovers in {folder.name}/: {leftovers}")
        cards = {path.stem for path in self._models.glob("model_*.json")}
        models = {path.stem for path in self._models.glob("model_*.p")}
        self.check(cards == models, f"cards {cards}, but models {models}")

    def _audit_output(self) -> None:
        for log in sorted({process.log for process in self._pipeline.processes}):
            text = log.read_text(errors="replace")
            self.damaged += text.count("does not match the digest")
            self.forgotten += text.count("Kafka has forgotten to ")
            last = text.rstrip().rpartition("\n")[2]
            self.check(
                "Traceback" not in text, f"{log.name} has a traceback; its last line: {last}"
            )

    def table(self, restarts: dict[str, int]) -> Table:
        """Return the figures as one table."""
        table = Table("", "", show_header=False, title="Audit")
        faults = self._faults
        kinds = Counter(fault.kind for fault in faults)
        for kind, number in sorted(kinds.items()):
            table.add_row(f"{kind}, {number} times", self._resumed(kind, faults))
        requests = f"{self._load.sent:,}, {len(self._load.acknowledged):,}, {self.in_log:,}"
        table.add_row("sent, acknowledged, in the log", requests)
        table.add_row("answered", f"{len(self._load.answered):,}")
        table.add_row("lost", f"{self.lost}")
        table.add_row("duplicate answers", f"{self.duplicates}")
        table.add_row("not yet answered when their topic was deleted", f"{self.deleted:,}")
        table.add_row("answers to requests that Kafka has lost", f"{self.orphans:,}")
        table.add_row("damaged models", f"{self.damaged}")
        table.add_row("transaction markers repaired", f"{self.forgotten}")
        if self.marker_watch:
            table.add_row("markers that would have been written", self.would_be_written)
        table.add_row("longest time without an answer", self._silence(faults))
        restarted = ", ".join(f"{name} {number}" for name, number in restarts.items())
        table.add_row("restarts", restarted)
        done = {m["model_id"] for m in self.control if "training_completed" in m}
        failed = sum("training_failed" in m for m in self.control)
        table.add_row("trainings", f"{len(done)} completed, {failed} failed")
        table.add_row("violations", f"{len(self.violations)}")
        return table

    def _silence(self, faults: list[Fault]) -> str:
        """Describe the longest time without an answer, and the faults in it."""
        began, ended = self._load.longest_silence()
        inside = [f for f in faults if f.overlaps(began, ended) and not f.kind.startswith("train")]
        text = f"{ended - began:.1f} s"
        if inside:
            last = max(fault.over for fault in inside)
            text += f"; faults in it: {len(inside)}, the last {ended - last:.1f} s before its end"
        return text

    def _resumed(self, kind: str, faults: list[Fault]) -> str:
        """Describe how soon answers resumed; faults that another one overlaps do not count."""
        times = []
        for fault in (fault for fault in faults if fault.kind == kind):
            after = self._load.resumed_after(fault.over)
            others = [f for f in faults if f is not fault and not f.kind.startswith("train")]
            if after and not any(f.overlaps(fault.began, fault.over + after) for f in others):
                times.append(after)
        if not times:
            return "always overlapped by another fault"
        middle, longest = statistics.median(times), max(times)
        return (
            f"answers after {middle:.1f} s, at most {longest:.1f} s ({len(times)} not overlapped)"
        )
