"""The example that writes to visitors who left: once, after the delay, not if they come back."""

import json
import os
import random
import re
import signal
import ssl
import time

import hypothesis
import pytest
from hypothesis import strategies

from examples.follow_up.events import ADDRESS, decode_event, decode_prediction, is_worth_an_email
from examples.follow_up.follow_up import parse_options
from examples.follow_up.mail import compose
from examples.follow_up.schedule import Due
from tests.harness.mail_server import OK, MailServer
from tests.harness.pipeline import wait_until
from tests.harness.secure_broker import make_certificate
from tools import local_kafka

READY = "Waiting for visitors who leave."


@pytest.fixture
def mail():
    """A running mail server."""
    with MailServer().running() as server:
        yield server


class Shop:
    """Sends what a shop would send, and runs the example."""

    def __init__(self, pipeline, port: int) -> None:
        self.pipeline, self.port = pipeline, port
        for topic in ("app_messages", "events"):
            pipeline.create_topic(topic, partitions=2)

    def start(self, *options: str, **environment: str):
        """Start the example; it is ready when this returns."""
        command = ("-m", "examples.follow_up.follow_up", "--smtp", f"localhost:{self.port}")
        options = ("--retry", "0.2", *options)
        return self.pipeline.start_and_wait(*command, *options, until=READY, **environment)

    def event(self, name: str, kind: str, email: str = "", **fields: str) -> None:
        """Send an event; the visitor's address is made of the name if it is not given."""
        message = {"session": session_of(name), "kind": kind, "email": email or address(name)}
        self.pipeline.send(message | fields, topic="events", key=name.encode())

    def predict(self, *names: str) -> None:
        """Send a prediction for each visitor, as the tutorial's predictor does."""
        for name in names:
            prediction = {"request_id": f"{session_of(name)}-1", "prediction": 1.0}
            self.pipeline.send(prediction, partition=0)

    def buy(self, name: str) -> None:
        """Let a visitor buy something."""
        self.event(name, "reacted", reaction="bought")

    def leave(self, *names: str) -> None:
        """Let visitors leave, and return when Kafka has stored it."""
        for name in names:
            self.event(name, "left")
        self.pipeline.producer.flush()

    def left_at(self) -> dict[str, float]:
        """Return when each visitor left, by e-mail address, in seconds since 1970."""
        events = [(json.loads(r.value), r.timestamp) for r in self.pipeline.records("events")]
        return {each["email"]: at / 1000 for each, at in events if each["kind"] == "left"}


@pytest.fixture
def shop(pipeline, mail) -> Shop:
    return Shop(pipeline, mail.port)


def address(name: str) -> str:
    return f"{name}@visitors.example"


def session_of(name: str) -> str:
    return name.replace("-", "_").ljust(16, "_")


def wait_for_mail(mail: MailServer, *names: str) -> None:
    """Return when each of these visitors has got an e-mail."""
    wanted = set(map(address, names))
    wait_until(lambda: wanted <= set(mail.recipients()), what=f"e-mails for {names}")


def kill(process) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def predicted_sessions(shop: Shop, number: int) -> dict[str, float]:
    """Let a real predictor answer requests of this number of visitors; {name: prediction}."""
    shop.pipeline.predictor()
    for row in range(number):
        shop.pipeline.request(row, f"{session_of(f's{row}')}-1", partition=row % 2)
    replies = shop.pipeline.wait_for_replies(number)
    return {each["request_id"].split("_")[0]: each["prediction"] for each in replies}


def test_exactly_those_get_an_email_who_left_and_are_worth_it(shop, mail):
    predictions = predicted_sessions(shop, 40)
    shop.start()
    worth = [name for name, prediction in predictions.items() if prediction == 1.0]
    assert 0 < len(worth) < 40
    *leaving, staying, last = worth
    shop.event(staying, "viewed")
    shop.leave(*(set(predictions) - {staying, last}))
    shop.leave(last)
    wait_for_mail(mail, last)  # the others were due before
    assert sorted(mail.recipients()) == sorted(map(address, [*leaving, last]))


def test_not_before_the_delay(shop, mail):
    shop.predict("a", "b")
    shop.start("--delay", "1.5")
    shop.leave("a", "b")
    wait_for_mail(mail, "a", "b")
    left_at = shop.left_at()
    waited = [each.at - left_at[each.to[0]] for each in mail.accepted]
    assert all(seconds >= 1.5 for seconds in waited)
    print(f"sent {max(waited) - 1.5:.2f} s after the delay at the latest")


def test_no_email_after_a_return_or_a_purchase(shop, mail):
    sessions = ("back", "bought", "elsewhere", "bought-first", "twice", "last")
    shop.predict(*sessions)
    process = shop.start("--delay", "2")
    shop.buy("bought-first")
    shop.leave("back", "bought", "elsewhere", "bought-first", "twice")
    shop.event("back", "arrived")
    shop.buy("bought")
    shop.leave("bought")
    shop.event("phone", "viewed", email=address("elsewhere").upper())
    shop.event("twice", "viewed")
    shop.leave("twice", "last")
    wait_for_mail(mail, "last", "twice")
    assert set(mail.recipients()) == {address("last"), address("twice")}
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_a_return_during_a_standstill_is_read_before_anything_is_sent(shop, mail):
    """More events than one poll returns lie between the leaving and the return."""
    shop.predict("back", "last", "first")
    process = shop.start()
    shop.leave("first")
    wait_for_mail(mail, "first")  # then all predictions are stored
    kill(process)
    shop.leave("back")
    for number in range(9_000):
        event = {"session": session_of(f"other{number}"), "kind": "viewed"}
        shop.pipeline.send(event, topic="events", key=b"back")
    shop.event("back", "arrived")
    shop.leave("last")
    shop.start()
    wait_for_mail(mail, "last")
    assert mail.recipients() == [address("first"), address("last")]


def test_a_visitor_gets_one_email_a_day_whatever_the_number_of_sessions(shop, mail):
    shop.predict("one", "two", "last")
    shop.start()
    shop.event("one", "left", email="Ann@visitors.example")
    shop.event("one", "left", email="Ann@visitors.example")
    wait_until(mail.recipients)
    shop.event("two", "left", email="ann@visitors.example")
    shop.leave("last")
    wait_for_mail(mail, "last")
    assert mail.recipients() == ["Ann@visitors.example", address("last")]


def test_killed_before_it_hears_that_the_server_has_taken_the_email(shop, mail):
    """The gap of RFC 1047: the e-mail is sent again, and recognised by its Message-ID."""
    shop.predict("a")
    process = shop.start()

    def kill_at_the_first(address: str) -> str:
        if not mail.accepted:
            kill(process)
        return OK

    mail.answer_data = kill_at_the_first
    shop.leave("a")
    wait_until(lambda: mail.accepted)
    again = shop.start()
    wait_until(lambda: len(mail.accepted) == 2)
    first, second = mail.accepted
    assert first.content == second.content
    shop.pipeline.wait_for_output(again, "an earlier attempt may have arrived too")


def kill_while_they_leave(shop: Shop, mail: MailServer, kills: int, visitors: int) -> None:
    """Kill the example again and again while visitors leave, some for a moment only."""
    leaving, back = [f"s{number}" for number in range(visitors)], [f"back{n}" for n in range(10)]
    shop.predict(*leaving, *back)
    rng = random.Random(7)

    def answer_slowly(address: str) -> str:
        time.sleep(rng.uniform(0, 0.04))
        return OK

    mail.answer_data = answer_slowly
    for number in range(kills):
        process = shop.start("--delay", "0.5")
        shop.leave(*leaving[number * visitors // kills : (number + 1) * visitors // kills])
        if number == kills // 2:
            for name in back:
                shop.event(name, "left")
                shop.event(name, "arrived")
        process_end = time.monotonic() + rng.uniform(0, 0.8)
        wait_until(lambda end=process_end: time.monotonic() > end)
        kill(process)
    shop.start("--delay", "0.5")
    wait_for_mail(mail, *leaving)
    shop.predict("last")
    shop.leave("last")
    wait_for_mail(mail, "last")
    assert set(mail.recipients()) == set(map(address, [*leaving, "last"]))
    distinct = {(each.message_id, each.to[0]) for each in mail.accepted}
    assert len(distinct) == visitors + 1 == len({message_id for message_id, _ in distinct})
    print(f"{kills} kills, {visitors} visitors: {mail.repeats()} e-mails repeated")


def test_killed_while_visitors_leave_each_gets_one_email(shop, mail):
    kill_while_they_leave(shop, mail, kills=4, visitors=50)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_a_hundred_times_while_visitors_leave(shop, mail):
    kill_while_they_leave(shop, mail, kills=100, visitors=500)


def test_a_server_that_refuses_and_one_that_is_away(shop):
    server = MailServer()
    shop.port = server.port
    shop.predict("later", "never", "fine", "away", "full")
    refused_once: set[str] = set()

    def answer(address: str, codes: dict[str, str]) -> str:
        name = address.split("@")[0]
        if name == "later" and name not in refused_once:
            refused_once.add(name)
            return "450 greylisted"
        return codes.get(name, OK)

    server.answer_rcpt = lambda address: answer(address, {"never": "550 no such user"})
    server.answer_data = lambda address: answer(address, {"full": "554 not wanted"})
    process = shop.start()
    with server.running():
        shop.leave("later", "never", "full", "fine")
        wait_for_mail(server, "later", "fine")
        shop.pipeline.wait_for_output(process, "never@visitors.example was refused, and is given")
        shop.pipeline.wait_for_output(process, "full@visitors.example was refused, and is given")
    shop.leave("away")
    shop.pipeline.wait_for_output(process, "takes no e-mail, next try in 0.2 s")
    with server.running():
        wait_for_mail(server, "away")
    assert sorted(server.recipients()) == sorted(map(address, ("later", "fine", "away")))
    assert process.log.read_text().count("450 greylisted") == 1


@pytest.mark.parametrize("how", ["frozen", pytest.param("stopped", marks=pytest.mark.slow)])
def test_kafka_away_and_back(shop, mail, broker, how):
    """While Kafka is away nothing is sent: the visitor may be back."""
    shop.predict("back", "away")
    process = shop.start("--delay", "1")
    shop.leave("back", "away")
    wait_until(lambda: len(shop.left_at()) == 2)
    shop.event("back", "arrived")
    shop.pipeline.producer.flush()
    pid = int((broker / "broker.pid").read_text())
    os.kill(pid, signal.SIGSTOP) if how == "frozen" else local_kafka.stop(broker)
    try:
        shop.pipeline.wait_for_output(process, "Trying again")
        assert mail.accepted == []
    finally:
        if how == "frozen":
            os.kill(pid, signal.SIGCONT)
        else:
            local_kafka.start(shop.pipeline.host, broker)
    wait_for_mail(mail, "away")
    assert mail.recipients() == [address("away")]


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
    for request_id in ("\\ud800" * 16 + "-1", "a b" * 9 + "-1", "-" * 99, "x" * 500_000 + "-1"):
        shop.pipeline.send(f'{{"request_id": "{request_id}", "prediction": 1.0}}'.encode())
    shop.leave("last")
    wait_for_mail(mail, "last")
    assert mail.recipients() == [address("last")]
    assert b"Bcc" not in mail.accepted[0].content
    shop.pipeline.wait_for_output(process, "Ignored 1 invalid events; the last one: ")


def test_login_and_encryption(pipeline, tmp_path):
    certificate = make_certificate(tmp_path, "mail", "-nodes")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, tmp_path / "mail.key")
    server = MailServer(context, ("shop", "pass word"))
    shop = Shop(pipeline, server.port)
    shop.predict("a")
    login = {"SMTP_USERNAME": "shop", "SSL_CERT_FILE": str(certificate)}
    with server.running():
        shop.leave("a")
        rejected = shop.start(**login, SMTP_PASSWORD="wrong")
        pipeline.wait_for_output(rejected, "takes no e-mail, next try in 0.2 s: (535")
        kill(rejected)
        shop.start(**login, SMTP_PASSWORD="pass word")
        wait_for_mail(server, "a")


def test_a_dry_run_prints_and_the_second_process_waits(shop, mail):
    shop.predict("a", "b")
    shop.leave("a")
    dry = shop.start("--dry-run")
    shop.pipeline.wait_for_output(dry, "Would send to a@visitors.example: Still interested in")
    first = shop.start()
    wait_for_mail(mail, "a")
    command = (*first.args[1:],)
    second = shop.pipeline.start(*command)
    shop.pipeline.wait_for_output(second, "Another process sends")
    first.send_signal(signal.SIGINT)
    assert first.wait(10) == 0
    shop.pipeline.wait_for_output(second, READY)
    shop.leave("b")
    wait_for_mail(mail, "b")
    assert mail.recipients() == [address("a"), address("b")]


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
    with pytest.raises(ValueError, match="email"):
        decode_event(json.dumps(event).encode())


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
