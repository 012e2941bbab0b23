"""Runs a script on a terminal, as a person does."""

import os
import pty
import subprocess
import sys
from contextlib import suppress

from utils.files import ROOT


def run_on_a_terminal(command: list[str], environment: dict[str, str]) -> tuple[bytes, int]:
    """Run a script with a terminal as standard output and error; return output and exit code."""
    ours, theirs = pty.openpty()
    variables = os.environ | {"TERM": "xterm", "COLUMNS": "300"} | environment
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=variables, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    output = b""
    with suppress(OSError):  # Linux: the other end is closed
        while read := os.read(ours, 65_536):
            output += read
    os.close(ours)
    return output, process.wait()
