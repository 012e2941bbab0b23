"""Answers every request on app_messages at once: does this person earn more than 50K?

    python predictor.py                          # one predictor
    PREDICTOR_ID=predictor-1 python predictor.py # one more, which shares the partitions

After every RETRAIN_EVERY requests it asks for retraining on retrain_topic. When the trainer
announces a new model there, the predictor loads it beside the running one and swaps it in between
two batches: it never stops answering. Needs Kafka and the model that initialize.py makes.
"""

import argparse
from contextlib import closing

from kafka.consumer.fetcher import ConsumerRecord

from utils.console import say
from utils.kafka_client.batch import Batch
from utils.kafka_client.topics import (
    APP_MESSAGES,
    DEAD_LETTER_TOPIC,
    PREDICTOR_GROUP,
    RETRAIN_TOPIC,
    prepare_topics,
)
from utils.kafka_client.transactions import TransactionalStream
from utils.messages import ControlMessage, ErrorReply, Prediction, decode_requests, encode
from utils.model_store.model import Model
from utils.model_store.registry import Registry
from utils.model_store.reloader import Reloader
from utils.process import collect_garbage_rarely, return_freed_memory, stop_on_signals
from utils.script import run
from utils.settings import settings

WRITES = (APP_MESSAGES, RETRAIN_TOPIC, DEAD_LETTER_TOPIC)


def answer(batch: Batch, model: Model) -> int:
    """Put into the batch a prediction for every request: 2. Invalid messages get a dead letter.

    Returns the number of retrain requests that became due.
    """
    requests, invalid = decode_requests(batch.records)
    probabilities = model.predict([request.data for _, request in requests]).tolist()
    for (record, request), probability in zip(requests, probabilities, strict=True):
        label = 1.0 if probability > 0.5 else 0.0
        reply = Prediction(request.request_id, label, probability, model.model_id)
        batch.reply(record, encode(reply))
    for record, error in invalid:
        batch.dead_letter(record, DEAD_LETTER_TOPIC, error.reason)
        if error.request_id is not None:
            batch.reply(record, encode(ErrorReply(error.request_id, error.reason)))
    return ask_for_retraining(batch, [record for record, _ in requests], model)


def ask_for_retraining(batch: Batch, answered: list[ConsumerRecord], model: Model) -> int:
    """Put into the batch a retrain request for each RETRAIN_EVERY requests answered: 3."""
    borders = batch.count(answered, settings.retrain_every)
    for batch_id, last in borders:
        request = ControlMessage(
            retrain=True,
            model_id=model.model_id,
            batch_id=batch_id,
            partition=last.partition,
            offset=last.offset,
            retrain_every=settings.retrain_every,
        )
        batch.send(RETRAIN_TOPIC, encode(request), partition=0)
    return len(borders)


def main() -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    return_freed_memory()
    stop = stop_on_signals()
    prepare_topics(read=(APP_MESSAGES, RETRAIN_TOPIC), write=WRITES)
    with closing(Reloader(Registry())) as champion:
        stream = TransactionalStream(APP_MESSAGES, PREDICTOR_GROUP, settings.predictor_id, WRITES)
        say(f"{settings.predictor_id} answers with model {champion.model.model_id}.", "bold")
        collect_garbage_rarely()

        while not stop.is_set():
            batch = stream.poll()
            due = answer(batch, champion.model)  # the one place where a new model comes in
            if stream.commit(batch) and due:
                say(
                    f"Answered {settings.retrain_every} more requests: asked for retraining.",
                    "cyan",
                )
        stream.close()


if __name__ == "__main__":
    run(main, restart=True)
