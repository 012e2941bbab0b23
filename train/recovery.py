"""How a trainer completes the work of one that was killed, beside others who change models."""

from contextlib import suppress

from train.store.observations import Observations
from train.training_process import remove_attempts
from utils.console import say
from utils.kafka_client.sender import Sender
from utils.model_store.announcements import announce
from utils.model_store.card import Card
from utils.model_store.patience import patiently
from utils.model_store.pruning import remove_leftovers
from utils.model_store.registry import ModelError, Registry, Seen


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


def decided(registry: Registry, model_id: int, seen: Seen) -> Card:
    """Return a published model's card, and reject it if it can't replace this champion any more."""
    card = registry.card(model_id)
    if model_id in seen.champion.deleting:  # its card, too, which is not written again
        card.decision, card.why = "rejected", "another trainer is deleting it"
    elif seen.model_id not in (card.replaces, model_id):
        card.decision = "rejected"
        card.why = f"model {seen.model_id} was promoted during the training"
        registry.write_card(card)
    return card


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
