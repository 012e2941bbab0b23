"""Answers every request on app_messages at once, with the prediction of a model.

    python predictor.py                          # one predictor
    PREDICTOR_ID=predictor-1 python predictor.py # one more; they share the partitions

After every RETRAIN_EVERY requests it asks for retraining on retrain_topic. When the trainer
announces a new model there, the predictor loads it beside the running one and swaps it in between
two batches: it never stops answering. Needs Kafka and the model that initialize.py makes. The steps
are those of the walkthrough in the README.
"""

from contextlib import closing

from kafka.consumer.fetcher import ConsumerRecord

from monitoring.metrics.serve import serve_metrics
from utils.console import say
from utils.kafka_client.batch import Batch
from utils.kafka_client.dead_letter_notice import DeadLetterNotice
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
from utils.script import command_line, run
from utils.settings import settings

WRITES = (APP_MESSAGES, RETRAIN_TOPIC, DEAD_LETTER_TOPIC)


def answer(batch: Batch, model: Model) -> tuple[int, int]:
    """Put a prediction for every request into the batch (step 2); dead letters for invalid ones.

    Returns how many requests were answered, and how many retrain requests that made due.
    """
    requests, invalid = decode_requests(batch.records)
    # All rows at once: one call for a thousand rows costs far less than a thousand calls.
    answers = model.answers([request.data for _, request in requests])
    for (record, request), fields in zip(requests, answers, strict=True):
        # To the request's own topic and partition, with its key: whoever sent the request finds
        # the reply there. Nobody takes it for a request, because it contains no data.
        batch.reply(record, encode(Prediction(request.request_id, *fields)))
    for record, error in invalid:
        # Kafka would deliver an invalid message again and again until somebody has dealt with it:
        # we keep its bytes in another topic, with the reason, and go on.
        batch.dead_letter(record, DEAD_LETTER_TOPIC, error.reason)
        if error.request_id is not None:
            batch.reply(record, encode(ErrorReply(error.request_id, error.reason)))
    return len(requests), ask_for_retraining(batch, [record for record, _ in requests], model)


def ask_for_retraining(batch: Batch, answered: list[ConsumerRecord], model: Model) -> int:
    """Put a retrain request into the batch for each RETRAIN_EVERY requests answered (step 3)."""
    # The count of answered requests is stored in Kafka, beside the offset of each partition, and
    # committed with the answers: neither a crash nor a move to another predictor changes it.
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
    command_line(__doc__).parse_args()
    return_freed_memory()
    serve_metrics("predictor")  # if METRICS_PORT is set
    stop = stop_on_signals()
    prepare_topics(read=(APP_MESSAGES, RETRAIN_TOPIC), write=WRITES)
    # The reloader listens for announcements in a thread, and loads and tests each new model there.
    with closing(Reloader(Registry())) as champion:
        # All predictors are one consumer group: Kafka gives each partition to one of them.
        stream = TransactionalStream(APP_MESSAGES, PREDICTOR_GROUP, settings.predictor_id, WRITES)
        say(f"{settings.predictor_id} answers with model {champion.model.model_id}.", "bold")
        collect_garbage_rarely()
        answered, notice = 0, DeadLetterNotice()  # answered: since the last retrain request

        while not stop.is_set():
            # What has arrived since the last poll: nothing, one request, or thousands of them.
            batch = stream.poll()
            # champion.model is read once per batch: a new model takes over between two batches.
            count, due = answer(batch, champion.model)
            # One transaction: the answers become visible, and the offset from which a restarted
            # predictor reads on moves past their requests. Both happen or neither does, so that no
            # request is lost or answered twice. False: it failed, and poll() returns them again.
            if stream.commit(batch):
                answered += count
                notice.add(batch.dead_letter_reasons)
                if due:
                    times = "" if due == 1 else f" {due} times"
                    say(f"Answered {answered} more requests: asked for retraining{times}.", "cyan")
                    answered = 0
        stream.close()


if __name__ == "__main__":
    run(main, restart=True)
