"""How a trainer completes the work of one that was killed."""

from contextlib import suppress

from train.store.observations import Observations
from train.training_process import remove_attempts
from utils.console import say
from utils.kafka_client.sender import Sender
from utils.model_store.announcements import announce
from utils.model_store.patience import patiently
from utils.model_store.pruning import remove_leftovers
from utils.model_store.registry import ModelError, Registry


def interrupted_training(store: Observations, registry: Registry) -> tuple[int, int] | None:
    """Return (model_id, requests_covered) of a training that made a model but did not end.

    A training that was killed before its model was published is abandoned: its files are removed,
    and the training that it was for is due again. Waits as patiently() does.
    """
    return patiently(lambda: _find_interrupted(store, registry))


def _find_interrupted(store: Observations, registry: Registry) -> tuple[int, int] | None:
    registry.take_over()
    remove_leftovers(registry)
    remove_attempts()
    unfinished = store.unfinished_training()
    if unfinished is None:
        return None
    with suppress(ModelError):
        registry.card(unfinished[0])
        return unfinished
    store.abandon_training()
    say(f"The training of model {unfinished[0]} was interrupted; another one will replace it.")
    return None


def announce_the_champion(store: Observations, registry: Registry, sender: Sender) -> None:
    """Announce the champion unless it was announced last; KafkaError if that fails.

    A promotion by hand may have been killed before its announcement, and anyone who can write to
    retrain_topic can announce a model that is not the champion.
    """
    announced = store.counter("announced_model_id")
    if registry.glance() in (None, announced) or registry.storage.is_away:
        return
    # The last look may be older than the announcement of a promotion by hand.
    champion = registry.glance(at_once=True)
    if champion != announced and not registry.storage.is_away and champion is not None:
        announce(sender, champion, training_completed=True)
        store.note_announced(champion)
