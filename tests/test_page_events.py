"""The server-sent events of the monitor's page, on real sockets."""

from contextlib import closing

import pytest

from monitoring.page import web_server
from monitoring.page.page import Page
from tests import page_samples as samples
from tests.harness.page_client import Stream, connect, get
from tests.harness.pipeline import wait_until

NOW = 1_795_000_000.0


@pytest.fixture
def page():
    with closing(Page("127.0.0.1", 0)) as page:
        page.publish(samples.running(NOW), samples.histories(NOW))
        yield page


def test_a_client_that_never_reads_is_given_up(page, monkeypatch):
    monkeypatch.setattr(web_server, "TIMEOUT", 0.5)
    large = samples.running(NOW)
    large.following.notes = ["a note" * 50_000]
    with closing(connect(page.port, b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")) as raw:
        raw.recv(100)

        def given_up() -> bool:
            page.publish(large, {})
            return page.connections == 0

        wait_until(given_up, what="the stream is given up")


def test_streams_are_limited(page):
    streams = [Stream(page.port) for _ in range(web_server.MAX_STREAMS)]
    refused = get(page.port, "/events")
    assert (refused.status, refused.getheader("Retry-After")) == (503, "5")
    assert get(page.port, "/").status == 200
    events = [stream.event() for stream in streams]
    assert all(event == events[0] for event in events)
    for stream in streams:
        stream.close()

    def has_ended() -> bool:
        page.publish(samples.running(NOW), {})
        return get(page.port, "/events", "HEAD").status == 200

    wait_until(has_ended, what="a stream has ended")


def test_a_stream_that_goes_on_gets_what_has_changed_since(page):
    stream, histories = Stream(page.port), samples.histories(NOW)
    first = stream.event()
    stream.close()
    assert first["complete"]
    assert len(first["histories"]["hour"]["points"]) == len(histories["hour"].points)
    histories["hour"].points[7].loss = 0.5  # late outcomes
    page.publish(samples.running(NOW), histories)
    page.publish(samples.running(NOW, champion=8), histories)
    again = Stream(page.port, stream.last)
    event = again.event()
    again.close()
    assert not event["complete"]
    assert event["snapshot"]["champion"] == 8
    assert [point["loss"] for point in event["histories"]["hour"]["points"]] == [0.5]
    assert event["histories"]["day"]["points"] == []
    assert "marks" not in event["histories"]["day"]


def test_a_stream_of_another_monitor_begins_anew(page):
    for last in ("", "nonsense", "123456-1", "-5", "a-" + "9" * 400):
        stream = Stream(page.port, last)
        assert stream.event()["complete"], last
        stream.close()


def test_a_history_with_another_interval_is_sent_anew(page):
    stream, histories = Stream(page.port), samples.histories(NOW)
    stream.event()
    histories["all"].interval = 240
    page.publish(samples.running(NOW), histories)
    changes = stream.event()["histories"]
    stream.close()
    assert changes["all"]["interval"] == 240
    assert len(changes["all"]["points"]) == len(histories["all"].points)
    assert changes["day"]["points"] == []


def test_a_text_cannot_end_an_event(page):
    snapshot = samples.running(NOW)
    snapshot.following.notes = ["\n\nevent: x\ndata: {}\n\n\r\r\u2028"]
    stream = Stream(page.port)
    stream.event()
    page.publish(snapshot, {})
    assert stream.event()["snapshot"]["following"]["notes"] == snapshot.following.notes
    stream.close()


def test_there_are_no_figures_before_the_first_ones():
    with closing(Page("127.0.0.1", 0)) as page:
        assert get(page.port, "/").status == 200
        assert get(page.port, "/snapshot.json").status == 404
        stream = Stream(page.port)
        page.publish(samples.empty(NOW), {})
        assert stream.event()["headline"]["level"] == "waiting"
        stream.close()
