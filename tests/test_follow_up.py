"""The example that writes to visitors who left: once, after the delay, not if they come back."""

import os
import signal
import ssl
from itertools import islice

import pytest

from tests.harness.brokers import QUICK, initialize
from tests.harness.left_visitors import READY, Shop, address, kill, session_of, wait_for_mail
from tests.harness.mail_server import MailServer
from tests.harness.pipeline import Pipeline, wait_until
from tests.harness.secure_broker import make_certificate
from utils.datasets.shop import dataset
from utils.settings import settings


def replies_to(shop: Shop, rows: list[dict]) -> dict[str, dict]:
    """Let a real predictor answer a request of each of these visitors; {name: reply}."""
    shop.pipeline.predictor()
    for number, row in enumerate(rows):
        request = {"request_id": f"{session_of(f's{number}')}-1", "data": row}
        shop.pipeline.send(request, partition=number % 2)
    replies = shop.pipeline.wait_for_replies(len(rows))
    return {each["request_id"].split("_")[0]: each for each in replies}


def check_who_gets_an_email(shop: Shop, mail: MailServer, worth: set[str], all_: set[str]) -> None:
    """Let all leave but one, who is worth an e-mail; another one of these leaves last."""
    assert 2 < len(worth) < len(all_)
    staying, last, *_ = worth
    shop.start()
    shop.event(staying, "viewed")
    shop.leave(*(all_ - {staying, last}))
    shop.leave(last)
    wait_for_mail(mail, last)  # the others were due before
    assert sorted(mail.recipients()) == sorted(map(address, worth - {staying}))


def test_exactly_those_get_an_email_who_left_and_are_worth_it(shop, mail):
    replies = replies_to(shop, shop.pipeline.rows[:40])
    worth = {name for name, reply in replies.items() if reply["prediction"] == 1.0}
    check_who_gets_an_email(shop, mail, worth, set(replies))


@pytest.mark.slow
def test_visitors_of_the_shop_get_an_email_if_they_are_likely_to_react(broker, mail, tmp_path):
    initialize(tmp_path, *QUICK, DATASET="shop")
    prefix = f"t{os.urandom(4).hex()}-"
    pipeline = Pipeline(settings.kafka_host, prefix, tmp_path, DATASET="shop")
    try:
        shop = Shop(pipeline, mail.port)
        replies = replies_to(shop, list(islice(dataset.visitors(tmp_path), 40)))
        worth = {n for n, reply in replies.items() if reply["probabilities"]["ignored"] <= 0.5}
        check_who_gets_an_email(shop, mail, worth, set(replies))
    finally:
        pipeline.stop_all()


@pytest.mark.slow
def test_not_before_the_delay(shop, mail):
    shop.predict("a", "b")
    shop.start("--delay", "1")
    shop.leave("a", "b")
    wait_for_mail(mail, "a", "b")
    left_at = shop.left_at()
    waited = [each.at - left_at[each.to[0]] for each in mail.accepted]
    assert all(seconds >= 1 for seconds in waited)
    print(f"sent {max(waited) - 1:.2f} s after the delay at the latest")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
