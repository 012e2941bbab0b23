"""The monitor's view in a terminal."""

import io
import re
import time

import pytest
from rich.console import Console

from monitoring.page import terminal
from tests import page_samples as samples
from tests.harness.terminal import run_on_a_terminal

CONTROL = re.compile(r"\x1b\[[?\d;]*[A-Za-z]|\r")
NOW = 1_795_000_000.0
PROGRAM = """
import fcntl, os, signal, struct, termios, time
from monitoring.page.terminal import terminal_view
from tests import page_samples as samples
from utils.process import stop_on_signals

def resize(columns):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

stop = stop_on_signals()
del os.environ["COLUMNS"]
resize(100)
with terminal_view() as show:
    for champion in (7, 8):
        now = time.time()
        show(samples.running(now, champion), samples.histories(now))
        resize(60)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.wait(10)
"""


def shown(snapshot, histories, width: int = 120, height: int = 50) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    console.print(terminal.view(snapshot, histories, width, height))
    return console.file.getvalue()


def test_it_shows_what_the_page_shows():
    text = shown(samples.alarming(NOW), samples.histories(NOW))
    assert text.startswith("✕ 1,204 requests have waited for longer than 30 s. The log loss is")
    for part in ("48,210", "p99 24 ms", "model 7", "champion", "0.2734", "◆ drifted", "▅"):
        assert part in text
    assert "11 invalid: data.age: expected a number" in text
    assert "No model is known yet" in shown(samples.empty(NOW), {})


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (300, 90)])
@pytest.mark.parametrize("kind", ["classes", "number"])
def test_it_fits_into_any_terminal(size, kind):
    text = shown(samples.running(NOW, kind=kind), samples.histories(NOW, kind=kind), *size)
    assert max(map(len, text.splitlines())) <= size[0]
    assert text.startswith("✓ All right: no request waits")


def test_no_text_controls_the_terminal():
    snapshot = samples.alarming(NOW)
    text = "\x1b[2J\x1b]0;title\x07[red]\nline\u202e"
    snapshot.alerts[0].text = snapshot.alerts[0].rule = snapshot.drift[0].name = text
    snapshot.models[0].why = snapshot.models[0].role = snapshot.marks[-1].text = text
    snapshot.flow.errors, snapshot.following.notes = {text: 1}, [text]
    found = shown(snapshot, {}, width=400)
    assert not re.search("[\x1b\x07\u202e]", found)
    assert "\\x1b[2J\\x1b]0;title\\x07[red]\\nline\\u202e" in found


def test_a_terminal_may_be_resized_and_is_left_as_it_was():
    output, code = run_on_a_terminal(["-c", PROGRAM], {})
    assert code == 0
    text = output.decode()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is hidden"
    before, after = text.split("\x1b[2J")
    assert "model 7, log loss 0.2734" in before
    assert max(map(len, CONTROL.sub("\n", before).splitlines())) > 60
    assert "model 8," in after
    assert max(map(len, CONTROL.sub("\n", after).splitlines())) <= 60


def test_where_there_is_no_terminal_it_says_a_line_now_and_then(capsys, monkeypatch):
    snapshot = samples.running(NOW)
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with terminal.terminal_view() as show:
        for _ in range(25):
            show(snapshot, {})
            clock[0] += 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("All right: no request waits for long, model 7, log loss 0.2734. 48")


def test_a_sparkline_has_its_width_and_its_gaps():
    assert terminal.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert terminal.sparkline([1, None, 1], 8) == "▁ ▁"
    assert terminal.sparkline([], 8) == ""
    assert len(terminal.sparkline([float(n) for n in range(1000)], 60)) == 59
