"""The programs that predictor.py is compared with: they answer the same requests in other ways.

    KAFKA_HOST=localhost:9092 python -m bench.loops echo     (or usual, c-client)

They have the predictor's settings and end at SIGTERM. bench/throughput.py starts them.
"""

import json
import os

from utils.datasets import dataset
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.group import MEMBER
from utils.kafka_client.producer import TRANSACTIONAL, make_producer
from utils.kafka_client.topics import APP_MESSAGES, PREDICTOR_GROUP
from utils.messages import InvalidMessage, Prediction, decode_request, encode
from utils.model_store.model import load_champion
from utils.model_store.registry import Registry
from utils.process import collect_garbage_rarely, stop_on_signals
from utils.script import command_line
from utils.settings import settings

REPLY = encode(Prediction("0" * 36, 0.0, 0.123456789012, 0))


def echo(stop) -> None:
    """Poll, send, commit: the fastest that kafka-python can be with the predictor's settings."""
    from kafka.structs import OffsetAndMetadata

    consumer = make_consumer(group_id=PREDICTOR_GROUP, **MEMBER)
    producer = make_producer(transactional_id=f"{PREDICTOR_GROUP}-echo", **TRANSACTIONAL)
    producer.init_transactions()
    consumer.subscribe([APP_MESSAGES])
    collect_garbage_rarely()
    while not stop.is_set():
        polled = consumer.poll(timeout_ms=500)
        if not polled:
            continue
        producer.begin_transaction()
        for partition, records in polled.items():
            for record in records:
                if b'"data"' in record.value:
                    producer.send(
                        APP_MESSAGES, REPLY, key=record.key, partition=partition.partition
                    )
        offsets = {p: OffsetAndMetadata(r[-1].offset + 1, "", -1) for p, r in polled.items()}
        producer.send_offsets_to_transaction(offsets, consumer.group_metadata())
        producer.commit_transaction()


def usual_model():
    """Return a function from a request's data to a probability: pandas and scikit-learn."""
    import lightgbm as lgb
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import MinMaxScaler, OrdinalEncoder

    numeric, categorical = list(dataset.numeric), list(dataset.categorical)
    crossings = {"_".join(names): list(names) for names in dataset.crossed}

    def with_crossings(frame: pd.DataFrame) -> pd.DataFrame:
        for name, names in crossings.items():
            frame[name] = frame[names].agg("-".join, axis="columns")
        return frame

    frame, outcomes = dataset.training(settings.data_dir)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    features = make_column_transformer(
        (MinMaxScaler(), numeric), (encoder, [*categorical, *crossings])
    )
    data = lgb.Dataset(features.fit_transform(with_crossings(frame)), outcomes)
    booster = lgb.train({"objective": "binary", "verbosity": -1}, data, num_boost_round=100)

    def probability(data: dict) -> float:
        row = features.transform(with_crossings(pd.DataFrame([data])))
        return float(booster.predict(row)[0])

    return probability


def usual(stop) -> None:
    """For each message a pandas row, scikit-learn, predict and flush; all clients with defaults."""
    from kafka import KafkaConsumer, KafkaProducer

    probability = usual_model()
    host = settings.kafka_host
    consumer = KafkaConsumer(
        APP_MESSAGES,
        bootstrap_servers=host,
        group_id=PREDICTOR_GROUP,
        auto_offset_reset="earliest",
    )
    producer = KafkaProducer(bootstrap_servers=host)
    while not stop.is_set():
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                message = json.loads(record.value)
                if "data" not in message:
                    continue
                prediction = probability(message["data"])
                reply = {"request_id": message["request_id"], "prediction": prediction}
                producer.send(APP_MESSAGES, json.dumps(reply).encode(), partition=record.partition)
                producer.flush()


def c_clients() -> tuple:
    """Return consumer and producer of confluent-kafka, with settings like the predictor's."""
    from confluent_kafka import Consumer, Producer

    shared = {"bootstrap.servers": settings.kafka_host}
    consumer = Consumer(
        shared
        | {
            "group.id": PREDICTOR_GROUP,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": 2**23,
        }
    )
    producer = Producer(
        shared
        | {
            "transactional.id": f"{PREDICTOR_GROUP}-c",
            "linger.ms": 100,
            "batch.size": 2**20,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    producer.init_transactions()
    consumer.subscribe([APP_MESSAGES])
    return consumer, producer


def c_client(stop) -> None:
    """The same work with confluent-kafka: poll, decode, transform, predict, send, commit."""
    from confluent_kafka import TopicPartition

    model, _ = load_champion(Registry())
    consumer, producer = c_clients()
    collect_garbage_rarely()
    while not stop.is_set():
        records = consumer.consume(MEMBER["max_poll_records"], 0.02)
        if not records:
            continue
        requests, ends = read(records)
        producer.begin_transaction()
        probabilities = model.predict([request.data for _, request in requests]).tolist()
        for (record, request), probability in zip(requests, probabilities, strict=True):
            reply = Prediction(request.request_id, float(probability > 0.5), probability, 0)
            producer.produce(APP_MESSAGES, encode(reply), record.key(), record.partition())
        offsets = [TopicPartition(APP_MESSAGES, number, end) for number, end in ends.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
        producer.commit_transaction()


def read(records: list) -> tuple[list, dict[int, int]]:
    """Return [(record, request)] and {partition: next offset} of confluent-kafka's records."""
    requests, ends = [], {}
    for record in records:
        ends[record.partition()] = record.offset() + 1
        try:
            request = decode_request(record.value())
        except InvalidMessage:
            continue
        if request is not None:
            requests.append((record, request))
    return requests, ends


LOOPS = {
    "echo": echo,
    "usual": usual,
    "c-client": c_client,
}


def main() -> None:
    """Run a loop until SIGTERM."""
    parser = command_line(__doc__, "bench.loops")
    parser.add_argument("loop", choices=LOOPS)
    LOOPS[parser.parse_args().loop](stop_on_signals())
    os._exit(0)


if __name__ == "__main__":
    main()
