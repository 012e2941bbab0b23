"""Retrains the model when enough has been learned, and announces the new one.

    python trainer.py
    python trainer.py --max-evals 10     # look beyond the champion's hyperparameters

It keeps every request and every outcome in a store of its own (data/observations.db). When
RETRAIN_EVERY requests have been answered, and the outcomes of as many are known, it retrains on the
original data plus all observations in a child process, makes the new model the champion and
announces it on retrain_topic. Killed anywhere, it ends its work after it starts again. A second
trainer waits until the first is gone.
"""

import os
import sqlite3
from argparse import Namespace
from contextlib import closing

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError, OffsetOutOfRangeError

import utils.quick_start  # noqa: F401 - before anything else imports LightGBM
from train import parse_arguments
from utils import model_store
from utils.console import say, warn
from utils.kafka_client import (
    APP_MESSAGES,
    OUTCOMES_TOPIC,
    RETRAIN_TOPIC,
    go_to,
    make_producer,
    prepare_topics,
    read_from,
    skip_deleted,
)
from utils.messages import ControlMessage, decode_control, decode_outcome, decode_requests, encode
from utils.observations import Observations, only_trainer
from utils.settings import settings
from utils.shutdown import stop_on_signals
from utils.training import Training, remove_leftovers
from utils.watchdog import all_is_well, run

STORE = settings.data_dir / "observations.db"


def ingest(store: Observations, consumer: KafkaConsumer) -> None:
    """Put what has arrived since the last time into the store: 1b, 3."""
    observed, retrain_requests, offsets = [], 0, {}
    for partition, records in consumer.poll(timeout_ms=500).items():
        offsets[partition] = records[-1].offset + 1
        if partition.topic == APP_MESSAGES:
            requests, _ = decode_requests(records)
            observed += [(r.request_id, encode(r.data), r.outcome) for _, r in requests]
        elif partition.topic == OUTCOMES_TOPIC:
            outcomes = [decode_outcome(record.value) for record in records]
            observed += [(outcome[0], None, outcome[1]) for outcome in outcomes if outcome]
            if outcomes.count(None):
                warn(f"{outcomes.count(None)} reported outcomes could not be understood.")
        else:
            messages = (decode_control(record.value) for record in records)
            retrain_requests += sum(1 for message in messages if message and message.retrain)
    if offsets:
        store.add(observed, retrain_requests, offsets)


def begin_training(store: Observations, covers: int, arguments: Namespace) -> Training:
    """Start a child that trains on everything the store has now: 4."""
    newest = max(model_store.model_ids(settings.models_dir), default=-1)
    model_id = store.begin_training(covers, at_least=newest + 1)
    say(f"Retraining: model {model_id}, on the original data and {store.count()} observations.")
    return Training(
        model_id, covers, store=STORE, data=settings.data_dir, models=settings.models_dir,
        hyper=arguments.hyper, max_evals=arguments.max_evals, timeout=arguments.timeout,
        threads=max((os.cpu_count() or 1) - 1, 1),
    )  # fmt: skip


def finish_training(training: Training, store: Observations, producer: KafkaProducer) -> None:
    """Publish the model that the child made, or say why there is none; KafkaError to try again."""
    model_id, covers = training.model_id, training.covers
    if failure := training.failure():
        warn(f"Training failed: {failure}")
        announce(producer, model_id, covers, training_failed=failure[:500])
        store.end_training(covers)
    else:
        training.publish()
        crown(model_id, covers, store, producer)
    training.close()


def crown(model_id: int, covers: int, store: Observations, producer: KafkaProducer) -> None:
    """Make a model that is on disk the champion and announce it: 5."""
    card = model_store.read_card(settings.models_dir, model_id)
    model_store.promote(settings.models_dir, model_id)
    announce(producer, model_id, covers, training_completed=True, observations=card["observations"])
    store.end_training(covers)
    model_store.prune(settings.models_dir, settings.extra_models_to_keep)
    say(f"Model {model_id} is the champion: CV logloss {card['cv_logloss']:.4f}.", "bold green")


def announce(producer: KafkaProducer, model_id: int, covers: int, **fields) -> None:
    """Tell every predictor, and wait until Kafka has it; KafkaError if it hasn't."""
    message = ControlMessage(model_id=model_id, retrain_requests_covered=covers, **fields)
    producer.send(RETRAIN_TOPIC, encode(message), partition=0).get(timeout=30)


def end_interrupted_training(store: Observations, producer: KafkaProducer) -> None:
    """Announce a model whose trainer was killed after it was complete; other leftovers go."""
    remove_leftovers(settings.models_dir)
    unfinished = store.unfinished_training()
    if unfinished and unfinished[0] in model_store.model_ids(settings.models_dir):
        crown(*unfinished, store, producer)


def main() -> None:
    """Ingest, retrain and announce until Ctrl-C or SIGTERM."""
    arguments = parse_arguments(__doc__, max_evals=1, timeout=60)
    os.nice(10)  # predicting comes first
    stop = stop_on_signals()
    if not model_store.model_ids(settings.models_dir):
        raise SystemExit("There is no model to improve on: run python initialize.py")
    prepare_topics(APP_MESSAGES, OUTCOMES_TOPIC, RETRAIN_TOPIC)
    with only_trainer(STORE, stop), closing(Observations(STORE)) as store:
        consumer = read_from(store.offsets(), APP_MESSAGES, OUTCOMES_TOPIC, RETRAIN_TOPIC)
        producer = make_producer()
        training = None
        end_interrupted_training(store, producer)
        all_is_well()
        say("The trainer waits for retrain requests.", "bold")
        while not stop.is_set():
            try:
                ingest(store, consumer)
                if training is None and (covers := store.requests_due(settings.retrain_every)):
                    training = begin_training(store, covers, arguments)
                elif training and training.has_ended():
                    finish_training(training, store, producer)
                    training = None
            except OffsetOutOfRangeError:
                store.add_missed(skip_deleted(consumer, store.offsets()))
            except (KafkaError, OSError, sqlite3.Error) as error:
                warn(f"{type(error).__name__}: {error}. Trying again.")
                stop.wait(1)
                go_to(consumer, store.offsets())  # what was polled and not stored
        if training:
            training.close()
        producer.close(timeout=5)
        consumer.close()


if __name__ == "__main__":
    run(main, restart=True)
