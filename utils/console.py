"""What the scripts print: one line an event, colors and a live line on a terminal only."""

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

_console = Console(highlight=False, markup=False, soft_wrap=True)


class _Dropping(io.FileIO):
    """A file that drops what it can't write, instead of raising OSError."""

    def write(self, data) -> int:
        with suppress(OSError):
            written = super().write(data)
            if written is not None:
                return written
        return len(data)  # as if it were written: no buffer keeps it


def drop_unwritable_output() -> None:
    """Let the program go on when its output can't be written: full disk, reader of a pipe gone.

    Otherwise print() raises, and at its end Python replaces the exit code by 120. It applies to
    sys.stdout and sys.stderr, so to tracebacks too.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the program was started without it
            continue
        file = io.BufferedWriter(_Dropping(stream.fileno(), "wb", closefd=False))
        options = {
            each: getattr(stream, each)
            for each in ("encoding", "errors", "line_buffering", "write_through")
        }
        setattr(sys, name, io.TextIOWrapper(file, **options))


def say(text: str, style: str = "") -> None:
    """Print one line immediately, in a rich style ("green", "bold red") on a terminal."""
    _console.print(text, style=style or None)


def warn(text: str) -> None:
    """Print one line about a problem that the program handles."""
    say(text, "yellow")


@contextmanager
def status_line(seconds: float = 10) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text in the last line of a terminal, until the block ends.

    Where the output is not a terminal, it prints the text once every `seconds` instead.
    """
    printed = time.monotonic()

    def show(text: str) -> None:
        nonlocal printed
        status.update(text)
        if not _console.is_interactive and time.monotonic() - printed > seconds:
            say(text)
            printed = time.monotonic()

    with _console.status("") as status:  # rich prints nothing where there is no terminal
        _console.show_cursor(True)  # a second Ctrl-C exits at once and would leave it hidden
        yield show
