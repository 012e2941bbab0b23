"""The server of the monitor's page, on real sockets."""

import http.client
import json
import socket
import time
from contextlib import ExitStack, closing

import pytest

from monitoring import web_server
from monitoring.page import Page, open_page
from tests import page_samples as samples
from tests.harness.pipeline import wait_until

NOW = 1_795_000_000.0


@pytest.fixture
def page():
    with closing(Page("127.0.0.1", 0)) as page:
        page.publish(samples.running(NOW), samples.histories(NOW))
        yield page


def get(page: Page, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    """Return the response; its body is `text`."""
    with closing(http.client.HTTPConnection("127.0.0.1", page.port, timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        response.text = response.read()
        return response


def connect(page: Page, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", page.port), timeout=20)
    connection.sendall(sent)
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


def send_slowly(connection: socket.socket, seconds: float) -> None:
    """Send a byte now and then: each comes in time, the whole never."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(b"X")
        time.sleep(0.05)


class Stream:
    """A client of /events."""

    def __init__(self, page: Page, last: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=20)
        self._connection.request("GET", "/events", headers={"Last-Event-ID": last} if last else {})
        self.response = self._connection.getresponse()
        self.last = ""

    def event(self) -> dict:
        """Return the data of the next event."""
        lines = {}
        while "data" not in lines:
            line = self.response.readline().decode().rstrip("\n")
            name, _, value = line.partition(": ")
            lines[name] = value
        assert self.response.readline() == b"\n", "an event has one line of data"
        self.last = lines["id"]
        return json.loads(lines["data"])

    def close(self) -> None:
        self.response.close()
        self._connection.close()


def test_it_serves_its_files_and_the_figures(page):
    for path, (content, kind) in web_server.FILES.items():
        response = get(page, path)
        assert (response.status, response.text) == (200, content)
        assert response.getheader("Content-Type") == kind
        assert response.getheader("Content-Security-Policy").startswith("default-src 'self';")
        assert response.getheader("X-Content-Type-Options") == "nosniff"
        assert response.getheader("Access-Control-Allow-Origin") is None
    assert json.loads(get(page, "/snapshot.json").text)["flow"]["requests"] == 48_210
    histories = samples.histories(NOW)
    for span in ("hour", "day", "all"):
        history = json.loads(get(page, f"/history.json?span={span}").text)
        assert len(history["points"]) == len(histories[span].points)
    head = get(page, "/snapshot.json", "HEAD")
    assert int(head.getheader("Content-Length")) > 1_000
    assert head.text == b""


NOWHERE = """
/../page.py
/%2e%2e/page.py
/..%2fpage.py
/static/index.html
//etc/passwd
/index.html/../../page.py
/uplot.LICENSE
/history.json?span=century
/history.json?span=../../etc/passwd
/<script>
/\u00e4
"""


def test_nothing_else_is_served(page):
    for path in NOWHERE.split():
        with closing(
            connect(page, f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        ) as raw:
            answer = read_to_the_end(raw)
        assert answer.startswith(b"HTTP/1.0 404 "), path
        assert b"text/html" not in answer


def test_it_can_only_be_read(page):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert get(page, "/snapshot.json", method).status == 405
    assert get(page, "/", "BREW").status == 501


def test_a_loopback_address_answers_to_its_own_names_only(page):
    for host in ("localhost", f"127.0.0.1:{page.port}", "[::1]:80", "LOCALHOST:1"):
        assert get(page, "/snapshot.json", Host=host).status == 200
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", ""):
        assert get(page, "/snapshot.json", Host=host).status == 403
        assert get(page, "/events", Host=host).status == 403
    with closing(connect(page, b"GET /snapshot.json HTTP/1.0\r\n\r\n")) as without_a_name:
        assert b" 403 " in read_to_the_end(without_a_name)


LONG = (
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 4_000 + b"\r\n",
    b"\x00\xff" * 20_000,
)


def test_a_request_that_is_too_long_is_refused(page):
    for head in LONG:
        with closing(connect(page, head)) as raw:
            assert raw.recv(100).startswith(b"HTTP/1.0 431 ")


def test_a_request_that_never_ends_is_given_up(page, monkeypatch):
    monkeypatch.setattr(web_server, "TIMEOUT", 0.5)
    slow = connect(page, b"GET / HTTP/1.1\r\n")
    with closing(slow), pytest.raises(OSError, match="reset|pipe"):
        send_slowly(slow, seconds=20)
    wait_until(lambda: page.connections == 0, what="no open connection")


def test_a_client_that_never_reads_is_given_up(page, monkeypatch):
    monkeypatch.setattr(web_server, "TIMEOUT", 0.5)
    large = samples.running(NOW)
    large.following.notes = ["a note" * 50_000]
    with closing(connect(page, b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")) as raw:
        raw.recv(100)

        def given_up() -> bool:
            page.publish(large, {})
            return page.connections == 0

        wait_until(given_up, what="the stream is given up")


def test_connections_are_limited(page):
    with ExitStack() as stack:
        for _ in range(web_server.MAX_CONNECTIONS):
            stack.enter_context(closing(connect(page)))
        wait_until(lambda: page.connections == web_server.MAX_CONNECTIONS)
        refused = get(page, "/")
        assert (refused.status, refused.getheader("Retry-After")) == (503, "5")
        wait_until(lambda: page.connections == web_server.MAX_CONNECTIONS)
        for _ in range(web_server.MAX_REFUSALS):
            stack.enter_context(closing(connect(page)))
        with closing(connect(page)) as one_too_many:
            assert one_too_many.recv(1) == b""
    wait_until(lambda: page.connections == 0)
    assert get(page, "/").status == 200


def test_streams_are_limited(page):
    streams = [Stream(page) for _ in range(web_server.MAX_STREAMS)]
    refused = get(page, "/events")
    assert (refused.status, refused.getheader("Retry-After")) == (503, "5")
    assert get(page, "/").status == 200
    events = [stream.event() for stream in streams]
    assert all(event == events[0] for event in events)
    for stream in streams:
        stream.close()

    def has_ended() -> bool:
        page.publish(samples.running(NOW), {})
        return get(page, "/events", "HEAD").status == 200

    wait_until(has_ended, what="a stream has ended")


def test_a_stream_that_goes_on_gets_what_has_changed_since(page):
    stream, histories = Stream(page), samples.histories(NOW)
    first = stream.event()
    stream.close()
    assert first["complete"]
    assert len(first["histories"]["hour"]["points"]) == len(histories["hour"].points)
    histories["hour"].points[7].loss = 0.5  # late outcomes
    page.publish(samples.running(NOW), histories)
    page.publish(samples.running(NOW, champion=8), histories)
    again = Stream(page, stream.last)
    event = again.event()
    again.close()
    assert not event["complete"]
    assert event["snapshot"]["champion"] == 8
    assert [point["loss"] for point in event["histories"]["hour"]["points"]] == [0.5]
    assert event["histories"]["day"]["points"] == []
    assert "marks" not in event["histories"]["day"]


def test_a_stream_of_another_monitor_begins_anew(page):
    for last in ("", "nonsense", "123456-1", "-5", "a-" + "9" * 400):
        stream = Stream(page, last)
        assert stream.event()["complete"], last
        stream.close()


def test_a_history_with_another_interval_is_sent_anew(page):
    stream, histories = Stream(page), samples.histories(NOW)
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
    stream = Stream(page)
    stream.event()
    page.publish(snapshot, {})
    assert stream.event()["snapshot"]["following"]["notes"] == snapshot.following.notes
    stream.close()


def test_there_are_no_figures_before_the_first_ones():
    with closing(Page("127.0.0.1", 0)) as page:
        assert get(page, "/").status == 200
        assert get(page, "/snapshot.json").status == 404
        stream = Stream(page)
        page.publish(samples.empty(NOW), {})
        assert stream.event()["headline"]["level"] == "waiting"
        stream.close()


def test_a_port_that_is_taken_is_named(page, capsys):
    assert open_page("127.0.0.1", page.port) is None
    assert f"MONITOR_PORT: {page.port} can't be used on 127.0.0.1: " in capsys.readouterr().out
    assert open_page("no host", 8501) is None
    assert "LISTEN_HOST: 'no host' can't be used: " in capsys.readouterr().out
    assert open_page("127.0.0.1", 0) is None


def test_ipv6():
    try:
        page = Page("::1", 0)
    except OSError:
        pytest.skip("needs IPv6")
    with closing(page):
        assert page.address == f"http://[::1]:{page.port}"
        with closing(http.client.HTTPConnection("::1", page.port, timeout=20)) as connection:
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
