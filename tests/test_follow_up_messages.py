"""What the example that writes to visitors reads: events, predictions, options, hostile ones."""

import json
import re
import uuid

import hypothesis
import pytest
from hypothesis import strategies

from examples.follow_up.events import ADDRESS, decode_event, decode_prediction, is_worth_an_email
from examples.follow_up.follow_up import parse_options
from examples.follow_up.mail import compose
from examples.follow_up.schedule import Due
from examples.journey import events as journey
from examples.journey.visitors import request_id
from tests.harness.left_visitors import address, session_of, wait_for_mail
from utils.messages import encode


def test_hostile_events_change_no_header_and_stop_nothing(shop, mail):
    shop.predict("a", "last")
    process = shop.start()
    for email in ("a@b.example\r\nBcc: c@d.example", "a@b.example,c@d.example", "<a@b.example>"):
        shop.event("a", "left", email=email)
    shop.event("a", "left", item="x\r\nBcc: c@d.example")
    shop.event("a", "left", item="https://evil.example")
    hostile = [b"", b"[1]", b"\xff", b"[" * 100_000, b'{"session": "\\ud800", "kind": "left"}']
    hostile += [b'{"session": "%b", "kind": "left"}' % (b"\\u0000" * 20)]
    for value in [*hostile, json.dumps({"session": "a" * 16, "kind": "x" * 500_000}).encode()]:
        shop.pipeline.send(value, topic="events")
        shop.pipeline.send(value)
    shop.pipeline.producer.send(f"{shop.pipeline.prefix}events", None, key=b"a")
    for each in ("\\ud800" * 16 + "-1", "a b" * 9 + "-1", "-" * 99, "x" * 500_000 + "-1"):
        shop.pipeline.send(f'{{"request_id": "{each}", "prediction": 1.0}}'.encode())
    shop.leave("last")
    wait_for_mail(mail, "last")
    # Who left is written to, without the text; nobody else is.
    assert mail.recipients() == [address("a"), address("last")]
    assert not [each for each in mail.accepted if b"Bcc" in each.content or b"evil" in each.content]
    shop.pipeline.wait_for_output(process, "Ignored 1 invalid events; the last one: ")


@pytest.mark.parametrize(
    ("event", "leaving", "purchase"),
    [
        (journey.Arrived("s" * 32), False, False),
        (journey.Viewed("s" * 32, "s-1", "item-07"), False, False),
        (journey.Reacted("s" * 32, "s-1", "basket"), False, False),
        (journey.Reacted("s" * 32, "s-1", "bought"), False, True),
        (journey.Left("s" * 32), True, False),
        (journey.Tick(), False, False),
    ],
)
def test_the_events_of_the_journey_are_understood(event, leaving, purchase):
    understood = decode_event(encode(event))
    assert (understood.is_leaving, understood.is_purchase) == (leaving, purchase)
    assert understood.session == getattr(event, "session", None)


def test_the_requests_of_the_journey_say_whose_they_are():
    reply = {"request_id": request_id("s" * 32, str(uuid.uuid4())), "prediction": 1.0}
    assert decode_prediction(encode(reply)) == ("s" * 32, True)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (("--smtp", "localhost"), "--smtp: expected host:port"),
        (("--smtp", "a:1", "--sender", "a\nb@c.example"), "--sender: expected an e-mail address"),
        (("--smtp", "a:1", "--delay", "-1"), "--delay: expected seconds, from 0 to 604800"),
        (("--smtp", "a:1", "--retry", "nan"), "--retry: expected seconds, from 0 to 604800"),
    ],
)
def test_wrong_options_end_with_a_sentence(monkeypatch, capsys, option, complaint):
    monkeypatch.setattr("sys.argv", ["follow_up", *option])
    with pytest.raises(SystemExit):
        parse_options()
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "email",
    ["a@b", "@b.example", "a b@c.example", "-x@c.example", "a@b.example\n", "a%d.example@c.d"]
    + ["a@" + "b." * 200 + "c", "a" * 65 + "@b.example", "a@-b.example", '"a"@b.example'],
)
def test_what_is_no_plain_address_is_no_address(email):
    event = {"session": "s" * 16, "kind": "left", "email": email}
    found = decode_event(json.dumps(event).encode())
    assert (found.email, found.is_leaving) == (None, True)


@pytest.mark.parametrize("odd", [{"item": "Café"}, {"email": ""}, {"item": ["a"]}, {"email": 7}])
def test_an_event_counts_whatever_its_other_fields_are(odd):
    bought = {"session": "s" * 16, "kind": "reacted", "reaction": "bought"} | odd
    assert decode_event(json.dumps(bought).encode()).is_purchase


@hypothesis.given(strategies.from_regex(ADDRESS).filter(lambda address: len(address) <= 254))
@hypothesis.example("a" * 64 + "@" + ".".join(["b" * 63] * 2 + ["c" * 59]))
def test_an_address_stays_in_one_piece(email):
    event = decode_event(json.dumps({"kind": "arrived", "email": email}).encode())
    message = compose(Due("s", event.email, None, 0, 0), "shop@example.org")
    assert re.search(rb"^To: (.*)\r$", bytes(message), re.MULTILINE)[1].decode() == email
    assert message["To"] == email


@pytest.mark.parametrize(
    ("prediction", "probabilities", "worth"),
    [
        (1.0, None, True),
        (0.0, None, False),
        ("ignored", {"ignored": 0.9, "liked": 0.1}, False),
        ("ignored", {"ignored": 0.4, "liked": 0.3, "basket": 0.2, "bought": 0.1}, True),
        ("versicolor", {"setosa": 0.1, "versicolor": 0.9}, False),
        (152.5, None, False),
    ],
)
def test_who_is_worth_an_email(prediction, probabilities, worth):
    assert is_worth_an_email(prediction, probabilities) is worth
    reply = {
        "request_id": f"{session_of('s')}-7",
        "prediction": prediction,
        "probabilities": probabilities,
    }
    assert decode_prediction(json.dumps(reply).encode()) == (session_of("s"), worth)
    assert decode_prediction(json.dumps(reply | {"data": {}}).encode()) is None
