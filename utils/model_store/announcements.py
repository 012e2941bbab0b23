"""Announcements on retrain_topic: a new champion, a rejected model, a training that failed."""

from utils.kafka_client.sender import Sender
from utils.kafka_client.topics import RETRAIN_TOPIC
from utils.messages import ControlMessage, encode


def announce(
    sender: Sender, model_id: int, retrain_requests_covered: int | None = None, **fields
) -> None:
    """Send an announcement about a model and wait until Kafka has it; KafkaError if it fails.

    retrain_requests_covered : how many retrain requests trainings have covered so far; None if the
    model was promoted by hand. fields : the other fields of the ControlMessage.
    """
    fields |= {"model_id": model_id, "retrain_requests_covered": retrain_requests_covered}
    value = encode(ControlMessage(**fields))
    sender.send({"topic": RETRAIN_TOPIC, "value": value, "partition": 0})
