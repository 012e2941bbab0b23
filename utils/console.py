"""What the scripts print: one line an event, colours only where a terminal shows them."""

from rich.console import Console

_console = Console(highlight=False, markup=False, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    """Print one line at once, in a rich style ("green", "bold red") on a terminal."""
    _console.print(text, style=style or None)


def warn(text: str) -> None:
    """Print one line about something that went wrong and is being dealt with."""
    say(text, "yellow")
