"""What the predictor says about the messages that it puts aside."""

import math

from utils.kafka_client.dead_letter_notice import MAX_REASONS, DeadLetterNotice

SEE = "see python -m tools.dead_letters list"
MISSING = "data.age: is missing"
AGE = "data.age: expected a number"


def test_the_first_one_is_reported_at_once_and_the_others_later(capsys):
    notice = DeadLetterNotice(interval=math.inf)
    notice.add([])
    assert capsys.readouterr().out == ""
    notice.add([MISSING])
    said = f"Put aside an invalid message: {MISSING}; {SEE}\n"
    assert capsys.readouterr().out == said
    for _ in range(100):
        notice.add([MISSING])
    assert capsys.readouterr().out == ""


def test_the_commonest_reason_is_reported_whatever_the_values_were(capsys):
    notice = DeadLetterNotice(interval=0)
    notice.add([MISSING, *(f"{AGE}, got '{n}'" for n in range(1_200))])
    said = f"Put aside 1,201 invalid messages, 1,200 of them because of: {AGE}; {SEE}\n"
    assert capsys.readouterr().out == said
    notice.add([])
    assert capsys.readouterr().out == ""


def test_memory_and_line_are_bounded_whatever_the_reasons_are(capsys):
    notice = DeadLetterNotice(interval=math.inf)
    notice.add(["x" * 100_000])
    assert len(capsys.readouterr().out) < 400
    notice.add(f"reason {n}" for n in range(2 * MAX_REASONS))
    assert len(notice._reasons) == MAX_REASONS


def test_a_predictor_says_what_it_puts_aside(pipeline):
    predictor = pipeline.predictor()
    pipeline.send(b"\x1b]0;title\x07")
    pipeline.wait_for_output(predictor, SEE)
    for _ in range(50):
        pipeline.send(b"[]")
    pipeline.request()
    pipeline.wait_for_replies(1)
    said = predictor.log.read_text()
    assert said.count(SEE) == 1
    assert "Put aside an invalid message: not valid JSON: " in said
    assert "\x1b" not in said
