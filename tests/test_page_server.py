"""The server of the monitor's page, on real sockets."""

import http.client
import json
import re
from contextlib import ExitStack, closing

import pytest

from monitoring.page import page as page_module
from monitoring.page import web_server
from monitoring.page.page import LatePage, Page
from monitoring.snapshot import Snapshot
from tests import page_samples as samples
from tests.harness.page_client import connect, get, read_to_the_end, send_slowly
from tests.harness.pipeline import wait_until

NOW = 1_795_000_000.0


@pytest.fixture
def page():
    with closing(Page("127.0.0.1", 0)) as page:
        page.publish(samples.running(NOW), samples.histories(NOW))
        yield page


def test_it_serves_its_files_and_the_figures(page):
    for path, (content, kind) in web_server.FILES.items():
        response = get(page.port, path)
        assert (response.status, response.text) == (200, content)
        assert response.getheader("Content-Type") == kind
        assert response.getheader("Content-Security-Policy").startswith("default-src 'self';")
        assert response.getheader("X-Content-Type-Options") == "nosniff"
        assert response.getheader("Access-Control-Allow-Origin") is None
    assert json.loads(get(page.port, "/snapshot.json").text)["flow"]["requests"] == 48_210
    histories = samples.histories(NOW)
    for span in ("hour", "day", "all"):
        history = json.loads(get(page.port, f"/history.json?span={span}").text)
        assert len(history["points"]) == len(histories[span].points)
    head = get(page.port, "/snapshot.json", "HEAD")
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
            connect(page.port, f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        ) as raw:
            answer = read_to_the_end(raw)
        assert answer.startswith(b"HTTP/1.0 404 "), path
        assert b"text/html" not in answer


def test_it_can_only_be_read(page):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert get(page.port, "/snapshot.json", method).status == 405
    assert get(page.port, "/", "BREW").status == 501


def test_a_loopback_address_answers_to_its_own_names_only(page):
    for host in ("localhost", f"127.0.0.1:{page.port}", "[::1]:80", "LOCALHOST:1"):
        assert get(page.port, "/snapshot.json", Host=host).status == 200
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", ""):
        assert get(page.port, "/snapshot.json", Host=host).status == 403
        assert get(page.port, "/events", Host=host).status == 403
    with closing(connect(page.port, b"GET /snapshot.json HTTP/1.0\r\n\r\n")) as without_a_name:
        assert b" 403 " in read_to_the_end(without_a_name)


LONG = (
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 4_000 + b"\r\n",
    b"\x00\xff" * 20_000,
)


def test_a_request_that_is_too_long_is_refused(page):
    for head in LONG:
        with closing(connect(page.port, head)) as raw:
            assert raw.recv(100).startswith(b"HTTP/1.0 431 ")


ODD = (
    b"GET http://[ HTTP/1.0\r\nHost: localhost",
    b"GET //[?span=%ff&span HTTP/1.0\r\nHost: localhost",
    b"GET /history.json?span=x" + b"&;=" * 1_000 + b" HTTP/1.0\r\nHost: localhost",
    b"GET \x00\xff HTTP/1.0\r\nHost: localhost",
    b"GET / HTTP/1.0\r\nHost: \xff[::1\x00",
    b"GET / HTTP/9.9",
    b"GET / NONSENSE",
    b"GET /",
    b"GET",
    b"\x00",
    b"GET / HTTP/1.1\r\nno colon\r\n: :\r\n \r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 150,
    b"",
)


def test_odd_requests_are_refused_quietly(page, capfd):
    for head in ODD:
        with closing(connect(page.port, head + b"\r\n\r\n")) as raw:
            answer = read_to_the_end(raw)
        assert b"<!doctype html>" not in answer, head
        assert re.match(rb"(HTTP/1.0 )?(4\d\d|505) |$", answer), head
    assert get(page.port, "/").status == 200
    assert capfd.readouterr() == ("", "")


def test_a_request_that_never_ends_is_given_up(page, monkeypatch):
    monkeypatch.setattr(web_server, "TIMEOUT", 0.5)
    slow = connect(page.port, b"GET / HTTP/1.1\r\n")
    with closing(slow), pytest.raises(OSError, match="reset|pipe"):
        send_slowly(slow, seconds=20)
    wait_until(lambda: page.connections == 0, what="no open connection")


def test_connections_are_limited(page):
    with ExitStack() as stack:
        for _ in range(web_server.MAX_CONNECTIONS):
            stack.enter_context(closing(connect(page.port)))
        wait_until(lambda: page.connections == web_server.MAX_CONNECTIONS)
        refused = get(page.port, "/")
        assert (refused.status, refused.getheader("Retry-After")) == (503, "5")
        wait_until(lambda: page.connections == web_server.MAX_CONNECTIONS)
        for _ in range(web_server.MAX_REFUSALS):
            stack.enter_context(closing(connect(page.port)))
        with closing(connect(page.port)) as one_too_many:
            assert one_too_many.recv(1) == b""
    wait_until(lambda: page.connections == 0)
    assert get(page.port, "/").status == 200


def test_a_port_that_is_taken_is_named_and_used_when_it_is_free(page, capsys, monkeypatch):
    monkeypatch.setattr(page_module, "OPEN_EVERY", 0.0)
    with closing(LatePage("127.0.0.1", page.port)) as late:
        late.open()
        late.publish(Snapshot(1.0), {})  # tries again, and says nothing more
        said = f"MONITOR_PORT: {page.port} can't be used on 127.0.0.1: Address already in use; "
        assert capsys.readouterr().out.count(f"{said}the page opens when it can be.") == 1
        page.close()
        late.publish(Snapshot(1.0), {})
        assert capsys.readouterr().out == f"The page is open: {page.address}\n"
        assert get(page.port, "/snapshot.json").status == 200


def test_without_a_name_or_a_port_there_is_no_page(capsys, monkeypatch):
    monkeypatch.setattr(page_module, "OPEN_EVERY", 0.0)
    for host, port, said in (("no host", 8501, 1), ("127.0.0.1", 0, 0)):
        late = LatePage(host, port)
        late.open()
        late.publish(Snapshot(1.0), {})
        assert late.page is None
        out = capsys.readouterr().out
        assert out.count("LISTEN_HOST: 'no host' can't be used: ") == out.count("\n") == said
        late.close()


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
