"""The producer that every script uses."""

from kafka import KafkaProducer

from utils.kafka_client.connection import connection
from utils.kafka_client.rights import identity


def make_producer(**options) -> KafkaProducer:
    """Return an idempotent producer (transactional, where the options give a transactional_id)."""
    defaults = {
        "enable_idempotence": True,
        "allow_auto_create_topics": False,
        "delivery_timeout_ms": 30_000,
        "max_block_ms": 10_000,
        "max_request_size": 2**23,
        "metrics_enabled": False,
    }
    if "transactional_id" in options:
        identity["transactional id"] = options["transactional_id"]
    return KafkaProducer(**connection() | defaults | options)
