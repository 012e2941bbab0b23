"""Keeps the champion in memory: loads it at the start, and again when a new one is announced.

A thread reads retrain_topic without a consumer group, so every predictor gets every announcement.
It loads, checks and warms up the new model while the old one still answers; then one assignment
replaces `model`. A model that can't be used is reported and the old one stays.
"""

import threading

from kafka.consumer.fetcher import ConsumerRecord

from utils.console import say, warn
from utils.kafka_client.positions import read_from_now_on
from utils.kafka_client.topics import RETRAIN_TOPIC
from utils.messages import decode_control
from utils.model_store.model import Model, load, load_champion
from utils.model_store.registry import ModelError, Registry


class Reloader:
    """Holds the model that answers, as `model`; SystemExit if no model can be used."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        # Position the reader before reading champion.json: a champion that is announced between
        # the two is read twice, in the other order it could be missed.
        self._consumer = read_from_now_on(RETRAIN_TOPIC)
        self.model = self._first_model()
        self._problem = ""  # the last one that was reported, to report each one once
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
        return model

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                polled = self._consumer.poll(timeout_ms=200)
                self._problem = ""
                for record in (record for records in polled.values() for record in records):
                    self._read(record)
            except Exception as error:  # no error may end the thread: nobody would load models
                self._report(str(error) or repr(error))
                self._stop.wait(1)

    def _read(self, record: ConsumerRecord) -> None:
        message = decode_control(record.value)
        if message and message.training_completed and message.model_id is not None:
            self._replace(message.model_id)

    def _report(self, problem: str) -> None:
        if problem != self._problem and not self._stop.is_set():
            warn(f"Can't read announcements of new models: {problem}")
        self._problem = problem

    def _replace(self, model_id: int) -> None:
        if model_id == self.model.model_id:
            return  # an announcement may be repeated
        try:
            self.model = load(self._registry, model_id)
        except ModelError as error:
            warn(f"Can't use the announced model ({error}); keeping model {self.model.model_id}.")
        else:
            say(f"Model {model_id} answers from now on.", "bold green")

    def close(self) -> None:
        """Stop the thread and close the consumer."""
        self._stop.set()
        self._thread.join(timeout=5)
        self._consumer.close(timeout_ms=1_000)
