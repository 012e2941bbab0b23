"""Retrains the model when enough has been learned, and announces it if it is good enough.

    python trainer.py
    python trainer.py --max-evals 10     # look beyond the champion's hyperparameters
    python trainer.py --now              # ask for a training by hand, whatever the counts are

It stores every request and every outcome, in data/observations.db or at OBSERVATIONS_URL. A
training is due when RETRAIN_EVERY requests are answered and the outcomes of as many are known. A
child process then trains a model on the original data and all observations. If it is better than
the champion, the model that answers now, or as good (train/judge.py says when), it becomes the
champion and is announced on retrain_topic; otherwise it is announced as rejected. Killed at any
moment, the trainer completes its work after the next start. The walkthrough in the README has the
same steps.
"""

import os
from argparse import Namespace
from contextlib import closing

from kafka.errors import KafkaError

from monitoring.metrics.serve import serve_metrics
from train.arguments import parse_arguments
from train.ingest import READS, WRITES, Ingest
from train.recovery import announce_the_champion, decided, interrupted_training
from train.store.observations import Observations, open_store
from train.store.one_trainer import only_trainer
from train.store.place import STORE
from train.training_process import TrainingProcess
from utils.console import say, warn
from utils.kafka_client.sender import Sender
from utils.kafka_client.topics import prepare_topics
from utils.model_store.announcements import announce
from utils.model_store.registry import Registry
from utils.process import reset_restarts, stop_on_signals
from utils.script import run
from utils.settings import settings

registry = Registry()


def begin_training(
    store: Observations, requests_covered: int, arguments: Namespace
) -> TrainingProcess:
    """Start a child process that trains a model on all data and judges it (step 4).

    Training takes minutes: a process of its own has the lowest priority, and this one reads on.
    """
    model_id = store.begin_training(requests_covered, at_least=registry.newest_id() + 1)
    observations = f"{store.count()} or more observations"  # more may come before the child reads
    newest = f"the newest {settings.train_window:,} rows of " if settings.train_window else ""
    say(f"Retraining: model {model_id}, on {newest}the original data and {observations}.")
    return TrainingProcess(model_id, requests_covered, arguments)


def finish_training(training: TrainingProcess, store: Observations, sender: Sender) -> None:
    """Publish the model that the child made, or announce that there is none.

    After a KafkaError or an OSError, call it again: each of its steps may be repeated.
    """
    store.still_mine()
    if failure := training.failure():
        fields = {"training_failed": failure[:500]}
        announce(sender, training.model_id, training.requests_covered, **fields)
        warn(f"Training failed: {failure}")
        store.end_training(training.requests_covered, "failed")
    else:
        training.publish(registry, store)
        conclude(training.model_id, training.requests_covered, store, sender)
    training.close()


def conclude(model_id: int, covered: int, store: Observations, sender: Sender) -> None:
    """Make a published model the champion, or reject it, and announce which (step 5).

    The order makes a kill -9 at any point harmless. Model, card and champion.json are on disk
    before the announcement, so whoever hears it finds them. The training is recorded as ended last:
    a trainer that finds its model published, but not its end, starts here again.
    """
    with registry.locked() as champion:  # `python -m tools.models promote` may change it, too
        store.still_mine()
        card = decided(registry, model_id, champion)
        fields = {"observations": card.observations, "judge": card.judge}
        if card.decision == "promoted":
            registry.promote(model_id, champion)
            announce(sender, model_id, covered, training_completed=True, why=card.why, **fields)
            store.note_announced(model_id)
            say(f"Model {model_id} is the champion: {card.why}.", "bold green")
        else:
            announce(sender, model_id, covered, training_rejected=card.why, **fields)
            warn(f"Model {model_id} is rejected: {card.why}.")
        store.end_training(covered, card.decision)
        registry.prune(settings.extra_models_to_keep, up_to=model_id)


def main() -> None:
    """Read, retrain and announce until Ctrl-C or SIGTERM."""
    arguments = parse_arguments(__doc__, 1, timeout=60, now="ask for a training, and end")
    os.nice(10)  # predictors come first
    stop = stop_on_signals()
    if not (settings.data_dir.is_dir() and registry.exists()):
        raise SystemExit("There is no model to improve on, or no data: run python initialize.py")
    if arguments.now:
        with closing(open_store()) as store:
            store.ask_by_hand()
        return say("Asked for a training: the running trainer, or the next one, starts it.")
    serve_metrics("trainer")  # if METRICS_PORT is set
    prepare_topics(READS, WRITES)
    # One trainer at a time: model ids and the store have one writer. A second trainer waits here,
    # and takes over when the first one ends, for any reason.
    with only_trainer(STORE, stop) as store, closing(Sender(store.still_mine)) as sender:
        # Kafka numbers the records of each partition of a topic; an offset is the next to be read.
        # Most programs join a consumer group and let Kafka keep their offsets: to "commit" is to
        # store them there. The trainer does neither. Its offsets are in its store, written in the
        # same transaction as the records before them, so a crash can't separate the two: nothing is
        # lost or stored twice. And without a group it reads all partitions, whoever else reads.
        ingest = Ingest(store, sender)
        training = None
        interrupted = interrupted_training(store, registry)  # by kill -9, or a power cut
        reset_restarts()
        say("The trainer waits for retrain requests.", "bold")
        while not stop.is_set():
            try:
                ingest.step()  # 1b, 3, 6: waits for records, at most half a second
                store.clean_up()  # OUTCOME_DAYS and OBSERVATIONS_KEEP limit what is stored
                if ingest.has_priority():  # an object store was away just now
                    continue
                if interrupted:
                    conclude(*interrupted, store, sender)
                    interrupted = None
                elif training is None:
                    announce_the_champion(store, registry, sender)
                    if (covered := store.training_due(settings.retrain_every)) is not None:
                        training = begin_training(store, covered, arguments)
                elif training.has_ended():
                    finish_training(training, store, sender)
                    training = None
            except (KafkaError, OSError) as error:  # Kafka is away, the disk is full, ...
                stop.wait(1)
                # Back to the stored offsets: what was polled and not stored is read again.
                ingest.retry(error)
        if training:
            training.close()
        ingest.close()


if __name__ == "__main__":
    run(main, restart=True)
