"""What is announced about models on retrain_topic, and waits until Kafka has it."""

from kafka import KafkaProducer

from utils.kafka_client.producer import send_and_wait
from utils.kafka_client.topics import RETRAIN_TOPIC
from utils.messages import ControlMessage, encode


def announce(producer: KafkaProducer, model_id: int, covers: int | None = None, **fields) -> None:
    """Send an announcement about a model; KafkaError if Kafka doesn't take it.

    covers : how many retrain requests are covered by now; None where the model was chosen by hand.
    """
    message = ControlMessage(model_id=model_id, retrain_requests_covered=covers, **fields)
    send_and_wait(producer, RETRAIN_TOPIC, encode(message), partition=0)
