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

import utils.quick_start  # noqa: F401 - before anything else imports LightGBM
from train import parse_arguments
from utils import model_store
from utils.access import prepare_topics, recover
from utils.announcements import announce, announce_the_champion
from utils.console import say, warn
from utils.ingest import ingest
from utils.kafka_client import (
    APP_MESSAGES,
    OUTCOMES_TOPIC,
    RETRAIN_TOPIC,
    make_producer,
    read_from,
)
from utils.observations import STORE, Observations, only_trainer
from utils.settings import settings
from utils.shutdown import stop_on_signals
from utils.training import Training, remove_leftovers
from utils.watchdog import all_is_well, run


def begin_training(store: Observations, covers: int, arguments: Namespace) -> Training:
    """Start a child that trains on everything the store has now, and judges the result: 4."""
    store.expire(settings.outcome_days * 86_400)
    newest = max(model_store.model_ids(settings.models_dir), default=-1)
    model_id = store.begin_training(covers, at_least=newest + 1)
    observations = f"{store.count()} or more observations"
    say(f"Retraining: model {model_id}, on the original data and {observations}.")
    return Training(
        model_id, covers, store=STORE, hyper=arguments.hyper, max_evals=arguments.max_evals,
        timeout=arguments.timeout,
    )  # fmt: skip


def finish_training(training: Training, store: Observations, producer: KafkaProducer) -> None:
    """Crown the model that the child made, or say why not; KafkaError to try again."""
    model_id, covers = training.model_id, training.covers
    if failure := training.failure():
        warn(f"Training failed: {failure}")
        announce(producer, model_id, covers, training_failed=failure[:500])
        store.end_training(covers)
    else:
        training.publish()
        conclude(model_id, covers, store, producer)
    training.close()


def conclude(model_id: int, covers: int, store: Observations, producer: KafkaProducer) -> None:
    """Make a model that is on disk the champion, or reject it, and announce that: 5."""
    with model_store.locked(settings.models_dir):
        crown_or_reject(model_id, covers, store, producer)
        store.end_training(covers)
        model_store.prune(settings.models_dir, settings.extra_models_to_keep)


def crown_or_reject(
    model_id: int, covers: int, store: Observations, producer: KafkaProducer
) -> None:
    """Do what the card says, unless somebody has promoted another model by hand meanwhile."""
    card = model_store.read_card(settings.models_dir, model_id)
    champion = model_store.champion_id(settings.models_dir)
    if champion not in (card["replaces"], model_id):
        why = f"model {champion} was promoted during the training"
        card |= {"decision": "rejected", "why": why}
        model_store.write_card(settings.models_dir, card)
    facts = {"observations": card["observations"], "judge": card["judge"]}
    if card["decision"] == "promoted":
        model_store.promote(settings.models_dir, model_id)
        announce(producer, model_id, covers, training_completed=True, **facts)
        store.note_announced(model_id)
        say(f"Model {model_id} is the champion: {card['why']}.", "bold green")
    else:
        announce(producer, model_id, covers, training_rejected=card["why"], **facts)
        warn(f"Model {model_id} is rejected: {card['why']}.")


def end_interrupted_training(store: Observations, producer: KafkaProducer) -> None:
    """Announce a model whose trainer was killed after it was complete; other leftovers go."""
    remove_leftovers(settings.models_dir)
    unfinished = store.unfinished_training()
    if unfinished and unfinished[0] in model_store.model_ids(settings.models_dir):
        conclude(*unfinished, store, producer)
    elif unfinished:
        store.abandon_training()
        say(f"The training of model {unfinished[0]} was broken off: what it was for is still due.")


def main() -> None:
    """Ingest, retrain and announce until Ctrl-C or SIGTERM."""
    arguments = parse_arguments(__doc__, 1, timeout=60, now="ask for a training, and end")
    os.nice(10)  # predicting comes first
    stop = stop_on_signals()
    if not (settings.data_dir.is_dir() and model_store.model_ids(settings.models_dir)):
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
        end_interrupted_training(store, producer)
        all_is_well()
        say("The trainer waits for retrain requests.", "bold")
        while not stop.is_set():
            try:
                ingest(store, consumer)  # 1b, 3, 6
                if training is None:
                    announce_the_champion(store, producer)
                    if (covers := store.training_due(settings.retrain_every)) is not None:
                        training = begin_training(store, covers, arguments)
                elif training.has_ended():
                    finish_training(training, store, producer)
                    training = None
            except (KafkaError, OSError, sqlite3.Error) as error:
                stop.wait(1)
                recover(error, consumer, store.offsets())  # what was polled and not stored
        if training:
            training.close()
        producer.close(timeout=5)
        consumer.close()


if __name__ == "__main__":
    run(main, restart=True)
