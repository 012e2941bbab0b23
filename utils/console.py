"""What the scripts print: one line an event, colors and a live line on a terminal only.

Texts may come from messages and files that anybody can write. So all that is printed is printable:
no text can control the terminal, begin a line of its own, or choose a style.
"""

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

MOST_COLUMNS = 10_000  # of a table that is not printed on a terminal
_console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def printable(text: str) -> str:
    """Return the text with an escape sequence for each character that is not printable.

    Printable is what str.isprintable() says: no control character, line break or lone surrogate,
    and no character that changes the direction of the text.
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


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


def speak_on_stderr() -> None:
    """Print to stderr from now on: stdout is for the result of a command."""
    _console.stderr = True


def say(text: str, style: str = "") -> None:
    """Print one line immediately, in a rich style ("green", "bold red") on a terminal."""
    _console.print(printable(text), style=style or None)


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
        status.update(Text(printable(text)))  # rich reads a str as markup
        if not _console.is_interactive and time.monotonic() - printed > seconds:
            say(text)
            printed = time.monotonic()

    with _console.status("") as status:  # rich prints nothing where there is no terminal
        _console.show_cursor(True)  # a second Ctrl-C exits at once and would leave it hidden
        yield show


def print_table(
    columns: Iterable[str], rows: Iterable[Iterable[str]], title: str = "", **options
) -> None:
    """Print a table; options are those of rich.table.Table.

    On a narrow terminal only its last column is wrapped. Elsewhere a row is one line, which other
    programs can search.
    """
    names = [_cell(name) for name in columns]
    headers = [Column(name, no_wrap=name is not names[-1]) for name in names]
    table = Table(*headers, title=_cell(title) if title else None, **options)
    for row in rows:
        table.add_row(*map(_cell, row))
    console = Console()
    if not console.is_terminal:
        console.width = MOST_COLUMNS
    console.print(table)


def _cell(text: str) -> Text:
    return Text(printable(text))  # rich reads a str as markup
