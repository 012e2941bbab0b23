"""`python -m examples.count_answers` on a real broker: all is right, and what is not."""


def counted(pipeline, code: int) -> list[str]:
    return pipeline.run("examples.count_answers", code=code).stdout.decode().splitlines()


def test_every_request_has_one_answer(pipeline):
    pipeline.predictor()
    pipeline.requests(8)
    pipeline.request(request_id="same")
    pipeline.request(request_id="same")  # two messages with one id get two answers
    pipeline.send({"request_id": "invalid", "data": {"age": "old"}})
    pipeline.send(b"no JSON")  # a dead letter, which nobody waits for
    pipeline.wait_for_replies(11)
    assert counted(pipeline, code=0) == ["11 requests, 0 not answered, 0 answered twice"]


def test_what_is_missing_and_what_is_there_twice_is_named(pipeline):
    pipeline.environment["PARTITIONS"] = "2"
    pipeline.create_topic("app_messages", partitions=2)
    for request_id, replies in (
        ("none", 0),
        ("one", 1),
        ("two", 2),
        *((f"n{n}", 0) for n in range(12)),
    ):
        pipeline.request(request_id=request_id, partition=0)
        for _ in range(replies):
            pipeline.send({"request_id": request_id, "prediction": 1.0}, partition=0)
    pipeline.send({"request_id": "of nobody", "prediction": 1.0}, partition=1)
    pipeline.request(request_id="one", partition=1)  # once more, and not answered
    pipeline.producer.flush()
    first, *names = counted(pipeline, code=1)
    assert first == "16 requests, 14 not answered, 1 answered twice"
    assert names[0] == "not answered: none"
    assert len([name for name in names if name.startswith("not answered: ")]) == 10
    assert names[-1] == "answered twice: two"
