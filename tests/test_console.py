"""Output that can't be written is dropped, and work goes on."""

import signal
import subprocess
import sys

import pytest

from utils.files import ROOT

TALKS = """
import sys
from utils.console import say
from utils.script import run
def main():
    for number in range(500):
        say(f"line {number}")
        print("a line of print()")
        print("a line on stderr", file=sys.stderr)
    {end}
run(main)
"""
UNWRITABLE = {
    "a full disk": "exec {command} >/dev/full 2>&1",
    "a pipe without a reader": "exec {command} > >(exec true) 2>&1",
}


def command(where: str, *arguments: str) -> list[str]:
    return [
        "bash",
        "-c",
        UNWRITABLE[where].format(command='"$@"'),
        "bash",
        sys.executable,
        *arguments,
    ]


@pytest.mark.parametrize("where", UNWRITABLE)
@pytest.mark.parametrize(
    ("end", "code"), [("pass", 0), ("raise SystemExit('a sentence')", 1), ("1 / 0", 1)]
)
def test_a_script_whose_output_can_not_be_written_ends_as_always(where, end, code):
    ended = subprocess.run(command(where, "-c", TALKS.replace("{end}", end)), cwd=ROOT, timeout=60)
    assert ended.returncode == code


@pytest.mark.slow
@pytest.mark.parametrize("where", UNWRITABLE)
def test_predictor_and_trainer_go_on_without_output(pipeline, where):
    predictor = pipeline.start_command(*command(where, "predictor.py"))
    trainer = pipeline.start_command(*command(where, "trainer.py", "--max-evals", "1"))
    pipeline.requests(25)
    pipeline.wait_for_replies(25)
    pipeline.wait_for_control(lambda ms: "training_completed" in ms[-1])
    pipeline.send(b"not JSON", topic="outcomes_topic")
    pipeline.requests(25)
    pipeline.wait_for_control(lambda ms: ms[-1].get("retrain_requests_covered") == 2)
    assert len(pipeline.replies()) == 50
    for script in (predictor, trainer):
        script.send_signal(signal.SIGTERM)
        assert script.wait(timeout=20) == 0
