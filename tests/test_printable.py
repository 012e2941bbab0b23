"""What comes from a message, a file or a header is printed as printable text."""

import json

import pytest

from tests.harness.pipeline import wait_until
from tests.harness.terminal import run_on_a_terminal
from tests.test_model_store import edit_card
from utils import console, script

# Sets the title of a terminal, moves its cursor, begins a new line, reverses the text; and what
# rich takes for a style or for an emoji.
HOSTILE = "\x1b]0;title\x07\x9b2J\r\nfaked line\u202e\ud800[bold]:bomb:[/]"
PRINTED = r"\x1b]0;title\x07\x9b2J\r\nfaked line\u202e\ud800[bold]:bomb:[/]"


def test_printable_escapes_all_that_a_terminal_could_act_on():
    assert console.printable(HOSTILE) == PRINTED
    assert console.printable("Zoë: 5 µs, 日本") == "Zoë: 5 µs, 日本"


def test_all_lines_are_printable(capsys):
    console.say(HOSTILE)
    console.warn(HOSTILE)
    with console.status_line(seconds=-1) as show:
        show(HOSTILE)
    assert capsys.readouterr().out == f"{PRINTED}\n" * 3


def test_a_table_is_printable(capsys):
    console.print_table(["name", HOSTILE], [["[red]x", HOSTILE]], title=HOSTILE)
    shown = capsys.readouterr().out
    assert shown.count(PRINTED) == 3
    assert "[red]x" in shown
    assert shown.replace("\n", "").isprintable()


def test_the_last_sentence_of_a_script_is_printable(monkeypatch):
    monkeypatch.setattr(script.os, "umask", lambda mode: None)  # it is that of all tests

    def fail() -> None:
        raise SystemExit(HOSTILE)

    with pytest.raises(SystemExit) as ended:
        script.run(fail)
    assert ended.value.code == PRINTED


def test_a_forged_error_reply_can_not_write_on_the_terminal(pipeline):
    app = pipeline.start("sample_app.py", "--messages", "1")
    request = wait_until(lambda: pipeline.messages("app_messages"), what="a request")[0]
    forged = {"request_id": request["request_id"], "error": HOSTILE[:-16] + "x" * 100_000}
    pipeline.send(json.dumps(forged).encode())
    pipeline.send({"request_id": request["request_id"], "error": "\x1b]0;title\x07\nfaked line"})
    assert app.wait(timeout=30) == 0
    lines = app.log.read_text().splitlines()
    [shown] = [line for line in lines if "-> error" in line]
    assert "error: \\x1b]0;title\\x07" in shown
    assert len(shown) < 500
    assert not any(line.startswith("faked line") for line in lines)


@pytest.mark.slow
def test_a_dead_letter_is_escaped_on_a_terminal_and_unchanged_elsewhere(pipeline):
    value = "\x1b]0;title\x07 é\n".encode() + b"\xff"
    headers = [("reason", b"\x1b[2J"), ("\x1b[3J", b"x")]
    pipeline.create_topic("dead_letter_topic")
    pipeline.send(value, "dead_letter_topic", headers=headers)
    pipeline.producer.flush()
    command = ["-m", "tools.dead_letters", "show", "0"]
    shown = run_on_a_terminal(command, pipeline.environment)[0]
    assert "\\x1b]0;title\\x07 é\\n\\xff\r\n".encode() in shown
    assert b"reason: \\x1b[2J\r\n\\x1b[3J: x\r\n" in shown
    assert b"\x1b" not in shown
    ended = pipeline.run("tools.dead_letters", "show", "0")
    assert ended.stdout == value
    assert b"\x1b" not in ended.stderr


@pytest.mark.slow
def test_models_shows_a_hostile_card_as_printable_text(pipeline):
    models = pipeline.folder / "models"
    edit_card(decision=HOSTILE[:-16], why=HOSTILE[:-16])(models / "model_0.p")
    for command in (["list"], ["show", "0"]):
        shown = run_on_a_terminal(["-m", "tools.models", *command], pipeline.environment)[0]
        assert b"faked" in shown
        assert b"title\x07" not in shown
        assert b"\xc2\x9b" not in shown
        assert b"\r\nfaked" not in shown
