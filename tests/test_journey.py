"""The web shop in examples/journey: real Kafka, real predictor, real browser."""

import os
import re
import signal
import socket
from random import Random

import pytest

from examples.follow_up.events import WORTH
from examples.journey.layouts import layout_for
from tests.harness.brokers import QUICK, initialize
from tests.harness.journey import CHROMIUM, Journey, Tab, running_chromium, view_of
from tests.harness.left_visitors import READY, address, wait_for_mail
from tests.harness.pipeline import wait_until
from tests.harness.shop_visitor import Visitor
from utils.datasets.shop import ITEMS
from utils.settings import settings


@pytest.fixture(scope="module")
def journey(broker, tmp_path_factory):
    """A shop that is open, with two partitions of events."""
    folder = tmp_path_factory.mktemp("journey")
    initialize(folder, *QUICK, DATASET="shop")
    journey = Journey(settings.kafka_host, "journey-", folder, DATASET="shop", PARTITIONS="2")
    journey.start_all()
    yield journey
    journey.stop_all()


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium; its tests come first."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with running_chromium() as browser:
        yield browser


# In the browser


@pytest.mark.slow
def test_the_page_follows_the_prediction(journey, chromium):
    tab = Tab(chromium, journey.port, source="mail")
    layouts = set()
    for item in ("item-00", "item-03", "item-39", "item-21"):
        tab.click(item)
        view, layout = tab.wait_for_layout()
        assert layout == layout_for(journey.reply_to(view))
        assert tab.page.locator("#liked").is_visible()
        layouts.add(layout)
    assert len(layouts) > 1, "all items have led to the same layout"
    tab.page.locator("#liked").click()
    tab.page.locator("#bought").click()
    assert journey.outcome_of(view) == "bought"
    (request,) = (each for each in journey.requests_so_far() if view_of(each) == view)
    assert request["data"]["source"] == "mail"
    assert (request["data"]["visitor"], request["data"]["views"]) == ("new", 4)
    tab.context.close()
    assert tab.problems == []


@pytest.mark.slow
def test_two_browsers_at_once_get_their_own_answers(journey, chromium):
    tabs = [Tab(chromium, journey.port, source) for source in ("mail", "ad")]
    for items in (("item-00", "item-09"), ("item-39", "item-30"), ("item-12", "item-12")):
        for tab, item in zip(tabs, items, strict=True):
            tab.click(item)
        for tab in tabs:
            view, _ = tab.wait_for_layout()
            chances = journey.reply_to(view).probabilities
            shown = ", ".join(f"{name} {round(p * 100)} %" for name, p in chances.items())
            assert f": {shown};" in tab.page.locator("#why").inner_text()
    for tab in tabs:
        tab.context.close()
        assert tab.problems == []


def look_until_worth_an_email(journey, tab) -> None:
    """Open items until the visitor is likely to react to the last one."""
    for item in ITEMS:
        tab.click(item)
        view, _ = tab.wait_for_layout()
        if 1 - journey.reply_to(view).probabilities["ignored"] >= WORTH:
            return
    raise AssertionError("no item is likely enough")


@pytest.mark.slow
def test_who_closes_the_page_gets_an_email_but_not_who_comes_back(journey, chromium, mail):
    smtp = ("--smtp", f"localhost:{mail.port}", "--delay", "3")
    follow_up = journey.start_and_wait("-m", "examples.follow_up.follow_up", *smtp, until=READY)
    back, gone = (Tab(chromium, journey.port, "mail") for _ in range(2))
    for tab, name in ((back, "back"), (gone, "gone")):
        tab.page.locator("#email").fill(address(name))
        tab.page.locator("#remind button").click()
        look_until_worth_an_email(journey, tab)
    shop = back.page.url
    back.page.goto("about:blank")
    gone.page.goto("about:blank")
    back.page.goto(shop)
    back.page.locator("body[data-ready]").wait_for()
    # An e-mail to the other one would be due first.
    wait_for_mail(mail, "gone")
    assert mail.recipients() == [address("gone")]
    follow_up.terminate()
    for tab in (back, gone):
        tab.context.close()


@pytest.mark.slow
def test_a_closed_page_is_an_ignored_item(journey, chromium):
    tab = Tab(chromium, journey.port)
    tab.click("item-05")
    view, _ = tab.wait_for_layout()
    tab.page.goto("about:blank")
    assert journey.outcome_of(view) == "ignored"
    tab.context.close()


def test_what_is_typed_into_the_address_or_injected_into_the_page_is_not_run(journey, chromium):
    tab = Tab(chromium, journey.port, source="%22><script>document.title='run'</script>")
    tab.click("item-05")
    tab.wait_for_layout()
    injected = "<img src='/nothing' onerror=\"document.title='run'\"><p id='there'>"
    tab.page.evaluate("text => document.body.insertAdjacentHTML('beforeend', text)", injected)
    wait_until(lambda: tab.page.locator("#there").count() and tab.problems, what="a violation")
    assert tab.page.title() == "Northway"
    assert any("Content Security Policy" in each for each in tab.problems)
    assert "session=" not in tab.page.evaluate("document.cookie")
    tab.context.close()


# Without a browser


def test_sessions_at_once_receive_the_answers_to_their_own_views_only(journey):
    visitors = [Visitor(journey.port, source) for source in ("search", "mail", "ad", "direct")]
    chance, viewed = Random(1), {visitor: [] for visitor in visitors}
    for _ in range(5):
        for visitor in visitors:
            viewed[visitor].append(visitor.view(chance.choice(ITEMS)))
    for visitor in visitors:
        wait_until(lambda: len(visitor.received) >= 5, what="5 answers")  # noqa: B023
    replies = {view_of(reply): reply for reply in journey.replies()}
    for visitor in visitors:
        assert sorted(m["view"] for m in visitor.received) == sorted(viewed[visitor])
        for message in visitor.received:
            assert message["chances"] == replies[message["view"]]["probabilities"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sessions", "kills"), [(4, 2), pytest.param(12, 15, marks=pytest.mark.slow)]
)
def test_an_aggregator_that_is_killed_makes_one_request_and_one_outcome_per_view(
    journey, sessions, kills
):
    visitors, chance, viewed = [Visitor(journey.port) for _ in range(sessions)], Random(kills), {}
    for _ in range(kills):
        for _ in range(5):
            for visitor in visitors:
                viewed.setdefault(visitor, []).append(visitor.view(chance.choice(ITEMS)))
        journey.replace_aggregator()
        if chance.random() < 0.5:  # kill the next one while it works, or while it starts
            journey.wait_for_output(journey.aggregator, " joins the events of ")
    for visitor in visitors:
        visitor.react(viewed[visitor][-2], "liked")
        visitor.leave()
    every_view = set().union(*viewed.values())

    def all_outcomes() -> list[dict] | None:
        outcomes = [m for m in journey.messages("outcomes_topic") if view_of(m) in every_view]
        return outcomes if {view_of(m) for m in outcomes} == every_view else None

    outcomes = wait_until(all_outcomes, what="all outcomes")
    assert len(outcomes) == len(every_view) == sessions * kills * 5
    liked = {viewed[visitor][-2] for visitor in visitors}
    assert {view_of(m) for m in outcomes if m["outcome"] == "liked"} == liked
    requests = journey.requests_so_far()
    for visitor in visitors:
        own = [r for r in requests if view_of(r) in viewed[visitor]]
        assert [view_of(request) for request in own] == viewed[visitor]
        # The state of the session was always restored: no view is missing, none counted twice.
        assert [request["data"]["views"] for request in own] == list(range(1, 5 * kills + 1))


VIEW = b'{"kind": "viewed", "view": "00000000-0000-0000-0000-000000000000", "item": %s}'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (VIEW % b'"item-07"', 202),
        (VIEW % b'"<script>alert(1)</script>"', 400),
        (VIEW % b'"item-40"', 400),
        (VIEW % b"7", 400),
        (VIEW.replace(b"0000", b"<b>0") % b'"item-07"', 400),
        (b'{"kind": "viewed", "item": "item-07"}', 400),
        (b'{"kind": "arrived", "device": "desktop", "source": "mail", "visitor": "new"}', 400),
        (b'{"kind": "tick"}', 400),
        (b'{"kind": "left", "session": "another"}', 400),
        (b"not JSON", 400),
        (b"\xff\xfe", 400),
        (b"", 400),
        (b"[" * 900, 400),
        (b"NaN", 400),
        (b" " * 2_000_000, 413),
    ],
)
def test_only_events_of_the_shop_are_taken(journey, body, status):
    assert Visitor(journey.port).post(body) == status


def test_forged_requests_get_nothing(journey):
    victim, thief = Visitor(journey.port), Visitor(journey.port)
    for cookie in ("", "session=", "session=../../x", "session=%s" % ("A" * 32), "session=0"):
        assert victim.post(b'{"kind": "left"}', Cookie=cookie) == 403
        assert victim.request("GET", "/stream", Cookie=cookie).status == 403
    assert victim.post(b'{"kind": "left"}', **{"Content-Type": "text/plain"}) == 415
    assert victim.request("GET", "/", Host="shop.example").status == 400
    for path in ("/page/../shop.py", "/page/%2e%2e/shop.py", "/page//etc/passwd", "/data"):
        assert victim.request("GET", path).status == 404
    assert victim.request("GET", "/events").status == 405
    # A view of another session: neither its answer nor its outcome is within reach.
    view = victim.view("item-07")
    thief.react(view, "bought")
    thief.report({"kind": "viewed", "view": view, "item": "item-08"})
    wait_until(lambda: thief.received and victim.received, what="answers")
    victim.leave()
    assert [m["view"] for m in thief.received] == [m["view"] for m in victim.received] == [view]
    ids = [r["request_id"] for r in journey.requests_so_far() if r["request_id"].endswith(view)]
    assert len(set(ids)) == len(ids) == 2
    outcomes = [m for m in journey.messages("outcomes_topic") if m["request_id"] in ids]
    assert [m["outcome"] for m in outcomes] == ["ignored"]


def test_each_response_forbids_foreign_scripts(journey):
    visitor = Visitor(journey.port)
    for path in ("/", "/items", "/page/shop.js", "/nothing"):
        policy = visitor.request("GET", path).getheader("Content-Security-Policy")
        assert "default-src 'none'; script-src 'self';" in policy
    given = visitor.request("GET", "/", Cookie="session=forged").getheader("Set-Cookie")
    assert re.fullmatch("session=[0-9a-f]{32}; HttpOnly; Path=/; SameSite=lax", given)


def test_broken_events_are_put_aside_and_the_others_joined(journey):
    visitor, before = Visitor(journey.port), len(journey.records("dead_letter_topic"))
    broken = [b"\xff", b"[]", b"{}", b'{"kind": "viewed", "session": "s"}', b"[" * 100_000]
    broken.append(b'{"kind": "viewed", "session": "s", "request_id": "1", "item": "<script>"}')
    for value in broken:
        journey.send(value, "events")
    journey.producer.flush()
    view = visitor.view("item-07")
    wait_until(lambda: [m["view"] for m in visitor.received] == [view], what="an answer")

    def put_aside():
        return len(journey.records("dead_letter_topic")) - before == len(broken)

    wait_until(put_aside, what="dead letters")


def test_the_views_of_a_session_that_wait_are_bounded(journey):
    visitor = Visitor(journey.port)
    journey.aggregator.send_signal(signal.SIGSTOP)
    try:
        events = [VIEW.replace(b"0000-0000", b"%04d-0000" % n) % b'"item-07"' for n in range(7)]
        assert [visitor.post(event) for event in events] == [202] * 5 + [429] * 2
    finally:
        journey.aggregator.send_signal(signal.SIGCONT)
    wait_until(lambda: len(visitor.received) == 5, what="5 answers")
    assert visitor.post(events[-1]) == 202


@pytest.mark.slow
def test_bodies_that_do_not_come_and_streams_that_nobody_reads_harm_nobody(journey):
    visitor = Visitor(journey.port)
    head = f"HTTP/1.1\r\nHost: localhost\r\nCookie: {visitor.cookie}\r\n"
    silent = [socket.create_connection(("127.0.0.1", journey.port)) for _ in range(100)]
    for number, each in enumerate(silent):
        each.settimeout(30)
        if number % 2:
            each.sendall(f"GET /stream {head}\r\n".encode())
        else:
            kind = "Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
            each.sendall(f"POST /events {head}{kind}".encode())
    other = Visitor(journey.port)
    view = other.view("item-07")
    wait_until(lambda: [m["view"] for m in other.received] == [view], what="an answer")
    assert silent[0].recv(100).startswith(b"HTTP/1.1 408")
    for each in silent:
        each.close()


@pytest.mark.slow
def test_the_shop_goes_on_after_kafka_was_away(broker, journey):
    visitor = Visitor(journey.port)
    pid = int((broker / "broker.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        body = VIEW % b'"item-07"'
        assert visitor.post(body) == 503
    finally:
        os.kill(pid, signal.SIGCONT)
    view = visitor.view("item-08")  # again and again until it is stored
    wait_until(lambda: view in visitor.received_at, what="an answer")
    views = [view_of(each) for each in journey.requests_so_far()]
    assert views.count(view) == 1


@pytest.mark.slow
def test_a_second_aggregator_shares_the_sessions_and_takes_over(journey):
    second = journey.start("-m", "examples.journey.aggregator", "--name", "aggregator-1")
    journey.wait_for_output(second, " joins the events of ")
    visitors, viewed = [Visitor(journey.port) for _ in range(8)], {}
    for number in range(6):
        for visitor in visitors:
            viewed.setdefault(visitor, []).append(visitor.view(ITEMS[number]))
        if number == 2:
            second.kill()
    every_view = set().union(*viewed.values())

    def all_requests() -> list[dict] | None:
        requests = [each for each in journey.requests_so_far() if view_of(each) in every_view]
        return requests if len(requests) >= len(every_view) else None

    requests = wait_until(all_requests, what="all requests")
    for visitor in visitors:
        own = [each for each in requests if view_of(each) in viewed[visitor]]
        assert [each["data"]["views"] for each in own] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_the_trainer_learns_from_what_visitors_do(journey):
    trainer = journey.trainer()
    visitors = [Visitor(journey.port) for _ in range(10)]
    for number in range(4):
        for visitor in visitors:
            visitor.react(visitor.view(ITEMS[number]), "bought" if number else "liked")
    for visitor in visitors:
        visitor.leave()
    journey.wait_for_control(lambda found: any("training_completed" in each for each in found))
    trainer.terminate()
    assert trainer.wait(timeout=60) == 0


@pytest.mark.slow
def test_another_number_of_partitions_of_states_is_refused(pipeline):
    pipeline.environment |= {"DATASET": "shop"}
    pipeline.create_topic("events", partitions=2)
    pipeline.create_topic("sessions")
    ended = pipeline.run("examples.journey.aggregator", code=1)
    assert b"events has 2 partitions, " in ended.stderr


@pytest.mark.slow
def test_the_journey_needs_the_shops_data_set(pipeline):
    ended = pipeline.run("examples.journey.aggregator", code=1)
    assert ended.stderr == b"DATASET: the journey needs shop (it is 'adult')\n"


@pytest.mark.slow
def test_a_silent_visitor_has_ignored_the_item_although_the_aggregator_was_killed(journey):
    visitor = Visitor(journey.port)
    view = visitor.view("item-07")
    wait_until(lambda: visitor.received, what="an answer")
    journey.replace_aggregator("--patience", "1")
    assert journey.outcome_of(view) == "ignored"


@pytest.mark.slow
def test_both_programs_end_cleanly_on_sigterm(journey):
    Visitor(journey.port)  # with an open stream
    for program in (journey.shop, journey.aggregator):
        program.send_signal(signal.SIGTERM)
    for program in (journey.shop, journey.aggregator):
        assert program.wait(timeout=20) == 0, program.log.read_text()
        assert "Traceback" not in program.log.read_text()
