"""The programs of the tutorial beside ours: jrzaurin's ml_pipelines, with the bytes it sends.

Its sample_app.py sends {"request_id": a UUID, "data": a row of adult.test} with json.dumps, flushes
each message, and takes every message with a "prediction" for a reply. Its consumers belong to no
group, begin at the end of a topic, and read uncommitted records.
"""

import json
import uuid

from kafka import KafkaConsumer, KafkaProducer

from tests.harness.pipeline import wait_until
from tests.test_messages import TUTORIAL_REQUEST


class TutorialCompany:
    """Sends and reads what the tutorial's sample_app.py does, without its pauses."""

    def __init__(self, pipeline) -> None:
        self.pipeline, self.topic = pipeline, pipeline.prefix + "app_messages"
        self.consumer = KafkaConsumer(self.topic, bootstrap_servers=pipeline.host)
        wait_until(lambda: self.consumer.poll(100) or self.consumer.assignment())
        for partition in self.consumer.assignment():
            self.consumer.position(partition)  # from here on it misses nothing

    def send(self, number: int) -> list[str]:
        """Send the first rows of adult.test, and return the request ids."""
        producer = KafkaProducer(bootstrap_servers=self.pipeline.host)
        request_ids = [str(uuid.uuid4()) for _ in range(number)]
        for request_id, row in zip(request_ids, self.pipeline.rows, strict=False):
            message = {"request_id": request_id, "data": row}
            producer.send(self.topic, json.dumps(message).encode("utf-8"))
            producer.flush()
        producer.close()
        return request_ids

    def receive(self, number: int) -> list[tuple[str, float]]:
        """Return this many replies as (request_id, prediction)."""
        replies = []

        def enough() -> bool:
            for records in self.consumer.poll(200).values():
                messages = [json.loads(record.value) for record in records]
                replies.extend(
                    (message["request_id"], message["prediction"])
                    for message in messages
                    if "prediction" in message
                )
            return len(replies) >= number

        wait_until(enough, what=f"{number} predictions")
        self.consumer.close()
        return replies


def test_the_first_row_is_the_documented_example(pipeline):
    pipeline.create_topic("app_messages")
    company = TutorialCompany(pipeline)
    (request_id,) = company.send(1)
    company.consumer.close()
    (sent,) = pipeline.records("app_messages")
    example = TUTORIAL_REQUEST.replace(b"\n  ", b" ").replace(b"<uuid>", request_id.encode())
    assert sent.value == example


def test_the_tutorials_company_gets_200_of_200_predictions(pipeline):
    pipeline.predictor()
    company = TutorialCompany(pipeline)
    request_ids = company.send(200)
    replies = company.receive(200)
    assert sorted(request_id for request_id, _ in replies) == sorted(request_ids)
    assert {prediction for _, prediction in replies} == {0.0, 1.0}
    assert pipeline.records("dead_letter_topic") == []


def test_the_tutorials_predictor_and_trainer_are_understood(pipeline):
    predictor = pipeline.predictor(RETRAIN_EVERY="1000")
    pipeline.trainer(RETRAIN_EVERY="25")
    TutorialCompany(pipeline).send(25)
    pipeline.send(b'{"retrain": true, "model_id": 1, "batch_id": 0}', topic="retrain_topic")
    pipeline.wait_for_output(predictor, "Model 1 answers")
    (pipeline.folder / "models" / "champion.json").write_text('{"model_id": 0}')
    announcement = b'{"training_completed": true, "model_id": 0}'
    pipeline.send(announcement, topic="retrain_topic")
    pipeline.wait_for_output(predictor, "Model 0 answers")


def test_a_reply_of_the_tutorials_predictor_is_understood_and_no_request(pipeline):
    app = pipeline.start("sample_app.py", "--messages", "1")
    request_id = wait_until(lambda: pipeline.messages("app_messages"))[0]["request_id"]
    pipeline.send(json.dumps({"request_id": request_id, "prediction": 0.0}).encode("utf-8"))
    assert app.wait(timeout=30) == 0
    assert "25, Machine-op-inspct -> 0.00, no offer; right" in app.log.read_text()
    pipeline.predictor()
    pipeline.requests(1)
    replies = pipeline.wait_for_replies(3)
    assert [reply["request_id"] for reply in replies[:2]] == [request_id, request_id]
    assert pipeline.records("dead_letter_topic") == []
