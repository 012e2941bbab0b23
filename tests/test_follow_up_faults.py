"""The example that writes to visitors who left, killed, or without mail server or Kafka."""

import os
import random
import signal
import sqlite3
import time
from contextlib import closing

import pytest

from tests.harness.left_visitors import Shop, address, kill, session_of, wait_for_mail
from tests.harness.mail_server import OK, MailServer
from tests.harness.pipeline import wait_until
from tools import local_kafka


@pytest.mark.slow
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


@pytest.mark.slow
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
    share = visitors // kills
    for number in range(kills):
        process = shop.start("--delay", "0.5")
        shop.leave(*leaving[number * share : (number + 1) * share])
        if number == kills // 2:
            for name in back:
                shop.event(name, "left")
                shop.event(name, "arrived")
        wanted = len(mail.accepted) + rng.randint(0, share)
        wait_until(lambda wanted=wanted: len(mail.accepted) >= wanted)
        kill(process)
    shop.leave(*leaving[kills * share :])
    shop.start("--delay", "0.5")
    wait_for_mail(mail, *leaving)
    shop.predict("last")
    shop.leave("last")
    wait_for_mail(mail, "last")
    assert set(mail.recipients()) == set(map(address, [*leaving, "last"]))
    distinct = {(each.message_id, each.to[0]) for each in mail.accepted}
    assert len(distinct) == visitors + 1 == len({message_id for message_id, _ in distinct})
    print(f"{kills} kills, {visitors} visitors: {mail.repeats()} e-mails repeated")


@pytest.mark.slow
def test_killed_while_visitors_leave_each_gets_one_email(shop, mail):
    kill_while_they_leave(shop, mail, kills=3, visitors=50)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_a_hundred_times_while_visitors_leave(shop, mail):
    kill_while_they_leave(shop, mail, kills=100, visitors=500)


@pytest.mark.slow
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


def stored_as_left(shop: Shop) -> int:
    """Return how many visitors have left, as far as the example knows."""
    with closing(sqlite3.connect(shop.pipeline.folder / "data" / "follow_up.db")) as store:
        return store.execute("SELECT count(left_at) FROM sessions").fetchone()[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["frozen", pytest.param("stopped", marks=pytest.mark.slow)])
def test_kafka_away_and_back(shop, mail, broker, how):
    """While Kafka is away nothing is sent: the visitor may be back."""
    shop.predict("first", "back", "away")
    process = shop.start("--delay", "1")
    shop.leave("first")
    wait_for_mail(mail, "first")
    shop.leave("back", "away")
    wait_until(lambda: stored_as_left(shop) == 3)
    shop.event("back", "arrived")
    shop.pipeline.producer.flush()
    pid = int((broker / "broker.pid").read_text())
    os.kill(pid, signal.SIGSTOP) if how == "frozen" else local_kafka.stop(broker)
    try:
        shop.pipeline.wait_for_output(process, "Trying again")
        assert mail.recipients() == [address("first")]
    finally:
        if how == "frozen":
            os.kill(pid, signal.SIGCONT)
        else:
            local_kafka.start(shop.pipeline.host, broker)
    wait_for_mail(mail, "away")
    assert mail.recipients() == [address("first"), address("away")]
