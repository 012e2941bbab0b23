"""The watchdog: it limits every wait, and the number of restarts in a row."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.files import ROOT
from utils.process import LOWEST_SESSION_NICE, lower_priority

MAX_RESTARTS = 5
WAITS_FOREVER = """
import threading
from utils.process import Watchdog, reset_restarts
{before}
with Watchdog()(1, "Kafka did not answer"):
    threading.Event().wait()
"""


RESTARTS_WITH_A_TIMER_ARMED = """
import signal
from utils.process import restart_process, time_limit, was_restarted
if was_restarted():
    signal.sigtimedwait([signal.SIGUSR1], 0.3)  # longer than the timer of the process before
    raise SystemExit(7)
with time_limit(0.1, TimeoutError()):
    restart_process("Kafka did not answer")
"""


def run(restarts: int, before: str = "") -> subprocess.CompletedProcess:
    return run_program(WAITS_FOREVER.format(before=before), PIPELINE_RESTARTS=str(restarts))


def run_program(program: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_restarts_the_process_and_gives_up_after_several_times_in_a_row():
    result = run(restarts=MAX_RESTARTS - 1)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "Kafka did not answer in time; restarting.",
        f"Kafka did not answer in time; giving up after {MAX_RESTARTS} restarts in a row.",
    ]


def test_a_success_resets_the_number_of_restarts():
    # Without reset_restarts() the second start would be the last one.
    stop = 'import os\nos.environ.get("PIPELINE_RESTARTS") == "1" and os._exit(7)\nreset_restarts()'
    assert run(restarts=MAX_RESTARTS, before=stop).returncode == 7


def test_a_late_answer_to_a_transaction_at_the_start_restarts_the_process():
    raises = """
from kafka.errors import KafkaError
from utils.script import run

def main():
    raise KafkaError("Could not execute transactional request for unknown reasons: late")

run(main, restart=True)
"""
    result = run_program(raises, PIPELINE_RESTARTS=str(MAX_RESTARTS))
    assert result.returncode == 1
    assert "giving up after" in result.stdout


def test_a_timer_of_the_old_program_does_not_end_the_new_one():
    result = run_program(RESTARTS_WITH_A_TIMER_ARMED)
    assert result.returncode == 7, result


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="only Linux has it")
def test_a_training_is_the_first_to_end_when_memory_is_short_and_the_last_to_run():
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as child:
        lower_priority(child.pid)
        proc = Path(f"/proc/{child.pid}")
        assert (proc / "oom_score_adj").read_text().strip() == "1000"
        assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == 19
        if (autogroup := proc / "autogroup").exists():  # the kernel was built with them
            assert autogroup.read_text().split()[-2:] == ["nice", "10"]
            lower_priority(child.pid, LOWEST_SESSION_NICE)
            assert autogroup.read_text().split()[-2:] == ["nice", "19"]
        child.communicate(b"\n")
    lower_priority(child.pid)  # one that has ended is no error
