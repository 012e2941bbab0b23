"""What the trainer tells everybody on retrain_topic, and waits until Kafka has it."""

from kafka import KafkaProducer

from utils import model_store
from utils.kafka_client import RETRAIN_TOPIC
from utils.messages import ControlMessage, encode
from utils.observations import Observations
from utils.settings import settings


def announce(producer: KafkaProducer, model_id: int, covers: int | None = None, **fields) -> None:
    """Send an announcement about a model; KafkaError if Kafka doesn't take it.

    covers : how many retrain requests are covered by now; None where the model was chosen by hand.
    """
    message = ControlMessage(model_id=model_id, retrain_requests_covered=covers, **fields)
    producer.send(RETRAIN_TOPIC, encode(message), partition=0).get(timeout=30)


def announce_the_champion(store: Observations, producer: KafkaProducer) -> None:
    """Announce the champion, unless it is the one that retrain_topic named last.

    Whoever chose another one by hand may have been killed before the announcement; and somebody
    else may have announced a model that is not the champion.
    """
    champion = model_store.champion_id(settings.models_dir)
    if champion is not None and champion != store.counter("announced_model_id"):
        announce(producer, champion, training_completed=True)
        store.note_announced(champion)
