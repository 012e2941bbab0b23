"""A script that is kept running, for tests/chaos/run.py."""

import signal
import subprocess

from tests.chaos.witness import Chronicle
from tests.harness.pipeline import Pipeline

EXIT_FENCED = 3  # of a predictor: do not restart
WITH_CLOCK = "tests/harness/clock.py"
STOP_TIMEOUT = 60  # seconds for a script to end after SIGTERM


class Service:
    """A script that is restarted as soon as it has ended, as a process supervisor does."""

    def __init__(
        self, pipeline: Pipeline, chronicle: Chronicle, name: str, *command: str, **environment: str
    ) -> None:
        self.name = name
        self.restarts = -1
        self.complaints: list[str] = []  # unexpected exits, and missing ones
        self.clock = pipeline.folder / f"{name}.clock"
        self._start = lambda: pipeline.start(WITH_CLOCK, str(self.clock), *command, **environment)
        self._chronicle = chronicle
        self._stopping = self._held = False
        self._launch()

    def _launch(self) -> None:
        self.process = self._start()
        self.restarts += 1
        self._expected: set[int] = set()
        self._copied = 0

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it still runs."""
        if number == signal.SIGTERM:
            # -15 while it starts; 128 + 15 after a second signal.
            self._expected |= {0, -number, 128 + number}
        elif number == signal.SIGKILL:
            self._expected |= {-number}
        self.process.send_signal(number)

    def supervise(self) -> None:
        """Copy new output into the chronicle, and restart the script if it has ended."""
        code = self.process.poll()
        text = self.process.log.read_text(errors="replace")
        end = max(self._copied, len(text) if code is not None else text.rfind("\n") + 1)
        self._chronicle.write(self.name, text[self._copied : end])
        self._copied = end
        if code is None or self._stopping or self._held:
            return
        self._chronicle.write(self.name, f"[ended with exit code {code}]")
        self._check(code)
        if code == EXIT_FENCED:
            self._stopping = True
        else:
            self._launch()

    def hold(self) -> None:
        """Kill the script, and do not start it again until release()."""
        self._held = True
        self.send(signal.SIGKILL)
        self.process.wait()

    def release(self) -> None:
        """Let a script that is held start again."""
        self._held = False

    def _check(self, code: int) -> None:
        if code not in self._expected:
            cause = "after SIGTERM" if 0 in self._expected else "without a signal"
            log = self.process.log.name
            self.complaints.append(f"{self.name} ended {cause} with exit code {code}: see {log}")

    def end(self) -> None:
        """Stop the script with SIGTERM, and do not restart it."""
        if self._stopping:
            return
        self._stopping = True
        self.send(signal.SIGTERM)
        try:
            self._check(self.process.wait(STOP_TIMEOUT))
        except subprocess.TimeoutExpired:
            self.complaints.append(f"{self.name} still runs {STOP_TIMEOUT} s after SIGTERM")
        self.supervise()
