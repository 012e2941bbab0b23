"""Announcements on retrain_topic: a new champion, a rejected model, a training that failed."""

from kafka import KafkaProducer

from utils.kafka_client.producer import send_and_wait
from utils.kafka_client.topics import RETRAIN_TOPIC
from utils.messages import ControlMessage, encode


def announce(
    producer: KafkaProducer, model_id: int, retrain_requests_covered: int | None = None, **fields
) -> None:
    """Send an announcement about a model and wait until Kafka has it; KafkaError if it fails.

    retrain_requests_covered : how many retrain requests trainings have covered so far; None if the
    model was promoted by hand. fields : the other fields of the ControlMessage.
    """
    fields |= {"model_id": model_id, "retrain_requests_covered": retrain_requests_covered}
    send_and_wait(producer, RETRAIN_TOPIC, encode(ControlMessage(**fields)), partition=0)
