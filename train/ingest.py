"""From the topics into the trainer's store."""

from kafka import KafkaConsumer
from kafka.errors import OffsetOutOfRangeError

from train.observations import Observations
from utils.console import warn
from utils.kafka_client.positions import skip_deleted
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC
from utils.messages import decode_control, decode_outcome, decode_requests, encode

Observed = tuple[str, bytes | None, float | None]  # request_id, data, outcome


def ingest(store: Observations, consumer: KafkaConsumer) -> None:
    """Poll once, and store what came and the offsets after it in one transaction.

    Records that Kafka's retention deleted before they were read are counted and skipped.
    """
    try:
        polled = consumer.poll(timeout_ms=500)
    except OffsetOutOfRangeError:
        store.add_missed(skip_deleted(consumer, store.offsets()))
        return
    observed, retrain_requests, announced = [], 0, None
    for partition, records in polled.items():
        if partition.topic == APP_MESSAGES:
            observed += _requests(records)
        elif partition.topic == OUTCOMES_TOPIC:
            observed += _outcomes(records)
        else:
            messages = [m for m in (decode_control(record.value) for record in records) if m]
            retrain_requests += sum(message.retrain for message in messages)
            for message in messages:
                announced = message.model_id if message.training_completed else announced
    if polled:
        offsets = {partition: records[-1].offset + 1 for partition, records in polled.items()}
        store.add(observed, retrain_requests, offsets, announced)


def _requests(records: list) -> list[Observed]:
    requests, _ = decode_requests(records)  # the predictor deals with the invalid ones
    return [(request.request_id, encode(request.data), request.outcome) for _, request in requests]


def _outcomes(records: list) -> list[Observed]:
    outcomes = [decode_outcome(record.value) for record in records]
    if outcomes.count(None):
        warn(f"{outcomes.count(None)} reported outcomes could not be understood.")
    return [(request_id, None, outcome) for request_id, outcome in filter(None, outcomes)]
