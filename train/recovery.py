"""What a trainer finishes for the one before it, which may have been killed anywhere."""

from kafka import KafkaProducer

from train.observations import Observations
from train.training_process import remove_attempts
from utils.console import say
from utils.model_store.announcements import announce
from utils.model_store.registry import Registry


def interrupted_training(store: Observations, registry: Registry) -> tuple[int, int] | None:
    """Return (model_id, covers) of a training whose model is complete but was not announced.

    What an incomplete one left is removed; what it was for is still due.
    """
    registry.remove_leftovers()
    remove_attempts()
    unfinished = store.unfinished_training()
    if unfinished is None or unfinished[0] in registry.ids():
        return unfinished
    store.abandon_training()
    say(f"The training of model {unfinished[0]} was interrupted: what it was for is still due.")
    return None


def announce_the_champion(store: Observations, registry: Registry, producer: KafkaProducer) -> None:
    """Announce the champion, unless it is the one that retrain_topic named last.

    Whoever promoted another one by hand may have been killed before the announcement; and somebody
    else may have announced a model that is not the champion.
    """
    champion = registry.champion_id()
    if champion is not None and champion != store.counter("announced_model_id"):
        announce(producer, champion, training_completed=True)
        store.note_announced(champion)
