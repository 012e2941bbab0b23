"""Keeps the champion in memory: loads it at the start, and whenever champion.json names another.

A thread reads retrain_topic without a consumer group, so every predictor gets every announcement.
An announcement only says when to look: which model to load, champion.json says. So a message that
was lost, repeated or forged changes nothing, and a model is loaded once for each promotion, however
many announcements there are. The thread looks once a second without an announcement, too (into an
object store every five seconds).

A model is loaded, checked and warmed up beside the one that answers; then one assignment replaces
`model`. One that can't be used is reported once, and tried again while it is the champion: on a
shared folder its files may arrive after its name.
"""

import threading
import time
from contextlib import suppress
from datetime import datetime

from utils.console import say, warn
from utils.datasets import dataset
from utils.kafka_client.positions import read_from_now_on
from utils.kafka_client.topics import RETRAIN_TOPIC
from utils.messages import decode_control
from utils.model_store.model import Model, load, load_champion
from utils.model_store.registry import ModelError, Registry
from utils.model_store.storage import StorageAway
from utils.telemetry import telemetry

LOOK_INTERVAL = 1.0  # seconds between two looks at champion.json, without an announcement
POLL_PAUSE = 0.1  # seconds between two polls: a flood of announcements must not occupy the thread
LONGEST_PAUSE = 30.0  # seconds between two attempts to load a model that can't be used


class Reloader:
    """Holds the model that answers, as `model`; SystemExit if no model can be used."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        # Position the reader before reading champion.json: a champion that is announced between
        # the two is read twice, in the other order it could be missed.
        self._consumer = read_from_now_on(RETRAIN_TOPIC)
        registry.exists()  # waits for an object store that is away
        champion = registry.champion_id()
        self.model = self._first_model()
        # The champion that can't be used, how long to wait before it is tried again, and when.
        self._unusable = champion if champion != self.model.model_id else None
        self._pause, self._retry_at = LOOK_INTERVAL, 0.0
        self._look_at = 0.0
        self._problem = ""  # the last one of reading announcements, to report each one once
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reloader", daemon=True)
        self._thread.start()

    def _first_model(self) -> Model:
        try:
            model, warnings = load_champion(self._registry)
        except ModelError as error:
            raise SystemExit(
                f"No model to answer with ({error}): run python initialize.py"
            ) from None
        for warning in warnings:
            warn(f"{warning}; starting with model {model.model_id} instead.")
        note_loaded(model)
        return model

    def _run(self) -> None:
        while not self._stop.wait(POLL_PAUSE):
            try:
                is_announced = self._hear_announcement()
                if is_announced or time.monotonic() >= self._look_at:
                    self._look_at = time.monotonic() + LOOK_INTERVAL
                    self._follow_champion(is_announced)
            except Exception as error:  # no error may end the thread: nobody would load models
                self._report(f"Can't load new models: {error!r}")

    def _hear_announcement(self) -> bool:
        """Poll once; return True if a new champion was announced."""
        try:
            polled = self._consumer.poll(timeout_ms=200)
        except Exception as error:  # Kafka is away, for example; champion.json is still there
            self._report(f"Can't read announcements of new models: {str(error) or repr(error)}")
            return False
        self._problem = ""
        messages = (decode_control(each.value) for records in polled.values() for each in records)
        return any(message and message.training_completed for message in messages)

    def _report(self, problem: str) -> None:
        if problem != self._problem and not self._stop.is_set():
            warn(problem)
        self._problem = problem

    def _follow_champion(self, is_announced: bool) -> None:
        """Load the champion unless it is loaded, or was not usable a moment ago."""
        champion, now = self._registry.glance(at_once=is_announced), time.monotonic()
        if champion is None or champion == self.model.model_id:
            self._unusable = None
        elif champion != self._unusable or now >= self._retry_at:
            self._replace(champion)

    def _replace(self, champion: int) -> None:
        try:
            self.model = load(self._registry, champion)
        except (ModelError, StorageAway) as error:
            if self._registry.glance(at_once=True) == champion:
                self._note_unusable(champion, error)
            # Else it was replaced, and deleted, meanwhile.
        else:
            note_loaded(self.model)
            telemetry.predictor.reloads += 1
            say(f"Model {champion} answers from now on.", "bold green")

    def _note_unusable(self, champion: int, error: Exception) -> None:
        """Report it once, and set when to try again: later each time."""
        telemetry.predictor.failed_loads += 1
        if champion == self._unusable:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        else:
            self._unusable, self._pause = champion, LOOK_INTERVAL
            what = f"Can't use the announced model ({error})"
            warn(f"{what}; keeping model {self.model.model_id} and trying again.")
        self._retry_at = time.monotonic() + self._pause

    def close(self) -> None:
        """Stop the thread and close the consumer."""
        self._stop.set()
        self._thread.join(timeout=5)
        self._consumer.close(timeout_ms=1_000)


def note_loaded(model: Model) -> None:
    """Say what is special about a model that answers from now on, and note it for the metrics."""
    numbers = telemetry.predictor
    numbers.model_id = model.model_id
    numbers.model_loaded_timestamp_seconds = time.time()
    numbers.model_created_timestamp_seconds = None
    with suppress(ValueError):  # "" in the card of an earlier version
        created = datetime.fromisoformat(model.card.created)
        numbers.model_created_timestamp_seconds = created.timestamp()
    say_what_differs(model)


def say_what_differs(model: Model) -> None:
    """Say which columns only one of the two has: the model, or the data set of this process."""
    dropped = [name for name in model.features.columns if name not in dataset.names]
    added = [name for name in dataset.names if name not in model.features.columns]
    if dropped:
        names, them = ", ".join(dropped), "that the data set does not have: they are nulls for it"
        warn(f"Model {model.model_id} uses columns {them} ({names}).")
    if added:
        say(f"Model {model.model_id} does not know these columns yet: {', '.join(added)}.")
