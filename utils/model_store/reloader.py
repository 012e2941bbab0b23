"""The champion in memory: loaded at the start, replaced when a new one is announced.

A thread reads retrain_topic without a group, so that every predictor hears every announcement. It
loads, verifies and warms up the new model beside the running one; `model` then changes by one
assignment. A model that can't be used is reported, and the old one goes on.
"""

import threading

from kafka.errors import KafkaError

from utils.console import say, warn
from utils.kafka_client.positions import read_from_now_on
from utils.kafka_client.security import Refused
from utils.kafka_client.topics import RETRAIN_TOPIC
from utils.messages import decode_control
from utils.model_store.model import Model, load, load_champion
from utils.model_store.registry import ModelError, Registry


class Reloader:
    """Holds the model that answers, as `model`; SystemExit if there is none to start with."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        # The reader's place first, then champion.json: an announcement in between is heard.
        self._consumer = read_from_now_on(RETRAIN_TOPIC)
        self.model = self._first_model()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="reload", daemon=True)
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

    def _listen(self) -> None:
        said = ""
        while not self._stop.is_set():
            try:
                polled = self._consumer.poll(timeout_ms=200)
                said = ""
            except (KafkaError, Refused) as error:
                problem = str(error)
                if problem != said and not self._stop.is_set():
                    warn(f"Can't hear announcements at the moment: {problem}")
                said = problem
                self._stop.wait(1)
                continue
            for record in (record for records in polled.values() for record in records):
                message = decode_control(record.value)
                if message and message.training_completed and message.model_id is not None:
                    self._swap(message.model_id)

    def _swap(self, model_id: int) -> None:
        if model_id == self.model.model_id:
            return  # an announcement may repeat
        try:
            self.model = load(self._registry, model_id)
        except ModelError as error:
            warn(f"Can't use the announced model ({error}); model {self.model.model_id} goes on.")
        else:
            say(f"Model {model_id} answers from now on.", "bold green")

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        self._thread.join(timeout=5)
        self._consumer.close(timeout_ms=1_000)
