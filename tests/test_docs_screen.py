"""docs/screen.md quotes what scripts print: each quote is in the code, each text on the page."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from utils.files import ROOT

PAGE = (ROOT / "docs" / "screen.md").read_text()
SCRIPTS = ("initialize.py", "monitor.py", "predictor.py", "sample_app.py", "trainer.py")
FOLDERS = ("utils", "train", "monitoring", "tools")
# What puts a text on the screen; the others of the page are texts of errors.
PRINTS = {"say", "warn", "restart_process", "SystemExit", "Refused"}
SEPARATORS = r"\.\.\.|[;:] "  # variable parts, and where the code joins two texts
LEAST = 4  # characters of a piece that is looked for
# Printed, but not on the page, by a piece of the text -> why.
LEFT_OUT = {
    "Tuning LightGBM with": "progress of initialize.py",
    "observations are converted": "progress of the sentence before it",
    "Taking part in a search of": "a worker's progress",
    "Not usable": "what follows says all",
    "-> error": "an error reply, in the words of docs/messages.md",
    "models can't be kept there": "says why, and names the setting",
    "Kafka sends no more messages": "an audit's; it says what is not searched",
    "take a shorter range": "says what to do",
    "the rest is searched in Kafka only": "the same",
    "The rest is not searched": "the same",
    "needs obstore": "names the package to install",
    "MODELS_DIR=": "names the setting",
    "KAFKA_CA_FILE can't be loaded": "names the setting",
    "can't be used together": "names the settings",
    "ALERT_RULES": "names the setting",
    "MLFLOW_TRACKING_URI": "names the setting",
}


def files() -> list[Path]:
    scripts = [ROOT / name for name in SCRIPTS]
    return scripts + [path for name in FOLDERS for path in sorted((ROOT / name).rglob("*.py"))]


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield the string constants below a node, but no docstrings; parts of f-strings each alone."""
    documented = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and node not in documented:
            yield node.value


def printed(tree: ast.AST) -> Iterator[str]:
    """Yield, of each text that is printed, the longest piece that does not vary."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in PRINTS and node.args:
            pieces = [each for text in texts(node.args[0]) for each in pieces_of(text)]
            if pieces:
                yield max(pieces, key=len)


def pieces_of(text: str) -> list[str]:
    """Return the parts of a text between its separators."""
    pieces = (each.strip(" .,;:()") for each in re.split(SEPARATORS, text))
    return [each for each in pieces if len(each) >= LEAST]


def quotes() -> list[str]:
    """Return the sentences in the page's tables."""
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    first = [quote for cell, _ in rows for quote in re.findall("`([^`]+)`", cell)]
    later = [quote for _, cells in rows for quote in re.findall("`([^`]+)`", cells)]
    return first + [quote for quote in later if "..." in quote or quote.endswith(".")]


IN_CODE = "\n".join(text for path in files() for text in texts(ast.parse(path.read_text())))


@pytest.mark.parametrize("quote", quotes())
def test_each_sentence_of_the_page_is_in_the_code(quote):
    pieces = pieces_of(quote)
    assert pieces, "too short to be looked for"
    assert [piece for piece in pieces if piece not in IN_CODE] == []


def test_the_page_is_read():
    assert len(quotes()) > 100


@cache
def lacking() -> list[tuple[str, str]]:
    """Return what is printed and not on the page, with the name of its file."""
    return [
        (path.name, text)
        for path in files()
        if path.parent.name != "tools"
        for text in printed(ast.parse(path.read_text()))
        if text not in PAGE
    ]


def test_each_sentence_of_the_scripts_is_on_the_page():
    unknown = [each for each in lacking() if not any(known in each[1] for known in LEFT_OUT)]
    assert unknown == []


def test_what_is_left_out_is_still_printed():
    assert [known for known in LEFT_OUT if not any(known in text for _, text in lacking())] == []
