"""Retrains the model when enough has been learned, and announces it if it is good enough.

    python trainer.py
    python trainer.py --max-evals 10     # look beyond the champion's hyperparameters
    python trainer.py --now              # ask for a training by hand, whatever the counts say

It keeps every request and every outcome in a store of its own (data/observations.db). When
RETRAIN_EVERY requests have been answered, and the outcomes of as many are known, it retrains on the
original data plus all observations in a child process. The new model becomes the champion, unless
it is worse than the one that answers now, and is announced on retrain_topic. Killed anywhere, it
ends its work after it starts again. A second trainer waits until the first is gone.
"""

import os
import sqlite3
from argparse import Namespace
from contextlib import closing

from kafka import KafkaProducer
from kafka.errors import KafkaError

from train import parse_arguments
from train.ingest import ingest
from train.observations import STORE, Observations, only_trainer
from train.recovery import announce_the_champion, interrupted_training
from train.training_process import TrainingProcess
from utils.console import say, warn
from utils.kafka_client.positions import read_again, read_from
from utils.kafka_client.producer import make_producer
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC, RETRAIN_TOPIC, prepare_topics
from utils.model_store.announcements import announce
from utils.model_store.registry import Registry
from utils.process import reset_restarts, stop_on_signals
from utils.script import run
from utils.settings import settings

registry = Registry()


def begin_training(store: Observations, covers: int, arguments: Namespace) -> TrainingProcess:
    """Start a child that trains on everything the store has now, and judges the result: 4."""
    store.expire(settings.outcome_days * 86_400)
    model_id = store.begin_training(covers, at_least=registry.newest_id() + 1)
    observations = f"{store.count()} or more observations"
    say(f"Retraining: model {model_id}, on the original data and {observations}.")
    return TrainingProcess(model_id, covers, arguments)


def finish_training(
    training: TrainingProcess, store: Observations, producer: KafkaProducer
) -> None:
    """Publish the model that the child made, or say why not; KafkaError to try again."""
    model_id, covers = training.model_id, training.covers
    if failure := training.failure():
        warn(f"Training failed: {failure}")
        announce(producer, model_id, covers, training_failed=failure[:500])
        store.end_training(covers)
    else:
        training.publish(registry)
        conclude(model_id, covers, store, producer)
    training.close()


def conclude(model_id: int, covers: int, store: Observations, producer: KafkaProducer) -> None:
    """Make a published model the champion, or reject it, and announce that: 5."""
    with registry.locked():
        promote_or_reject(model_id, covers, store, producer)
        store.end_training(covers)
        registry.prune(settings.extra_models_to_keep)


def promote_or_reject(
    model_id: int, covers: int, store: Observations, producer: KafkaProducer
) -> None:
    """Do what the card says, unless somebody has promoted another model by hand meanwhile."""
    card = registry.card(model_id)
    champion = registry.champion_id()
    if champion not in (card.replaces, model_id):
        card.decision, card.why = (
            "rejected",
            f"model {champion} was promoted during the training",
        )
        registry.write_card(card)
    facts = {"observations": card.observations, "judge": card.judge}
    if card.decision == "promoted":
        registry.promote(model_id)
        announce(producer, model_id, covers, training_completed=True, **facts)
        store.note_announced(model_id)
        say(f"Model {model_id} is the champion: {card.why}.", "bold green")
    else:
        announce(producer, model_id, covers, training_rejected=card.why, **facts)
        warn(f"Model {model_id} is rejected: {card.why}.")


def main() -> None:
    """Ingest, retrain and announce until Ctrl-C or SIGTERM."""
    arguments = parse_arguments(__doc__, 1, timeout=60, now="ask for a training, and end")
    os.nice(10)  # predicting comes first
    stop = stop_on_signals()
    if not (settings.data_dir.is_dir() and registry.ids()):
        raise SystemExit("There is no model to improve on, or no data: run python initialize.py")
    if arguments.now:
        with closing(Observations(STORE)) as store:
            store.ask_by_hand()
        return say("Asked for a training: the trainer that runs, or the next one, begins it.")
    prepare_topics(read=(APP_MESSAGES, OUTCOMES_TOPIC, RETRAIN_TOPIC), write=(RETRAIN_TOPIC,))
    with only_trainer(STORE, stop), closing(Observations(STORE)) as store:
        consumer = read_from(store.offsets(), APP_MESSAGES, OUTCOMES_TOPIC, RETRAIN_TOPIC)
        producer = make_producer()
        training = None
        if interrupted := interrupted_training(store, registry):
            conclude(*interrupted, store, producer)
        reset_restarts()
        say("The trainer waits for retrain requests.", "bold")
        while not stop.is_set():
            try:
                ingest(store, consumer)  # 1b, 3, 6
                if training is None:
                    announce_the_champion(store, registry, producer)
                    if (covers := store.training_due(settings.retrain_every)) is not None:
                        training = begin_training(store, covers, arguments)
                elif training.has_ended():
                    finish_training(training, store, producer)
                    training = None
            except (KafkaError, OSError, sqlite3.Error) as error:
                stop.wait(1)
                read_again(consumer, store.offsets(), error)  # what was polled and not stored
        if training:
            training.close()
        producer.close(timeout=5)
        consumer.close()


if __name__ == "__main__":
    run(main, restart=True)
