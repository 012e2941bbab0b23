"""The project's pages as tests see them: their text, blocks, links, and the shape of an output."""

import re
from functools import cache
from pathlib import Path

from utils.files import ROOT

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RULES = "─━┃│┏┳┓┡╇┩└┴┘┼├┤"


@cache
def pages() -> dict[str, str]:
    """Return the text of each page that people read, by its path."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    found += [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*/README.md"))]
    return {str(page.relative_to(ROOT)): page.read_text() for page in found}


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks in a language."""
    return [text for name, text in _FENCE.findall(pages()[page]) if name == language]


def without_blocks(text: str) -> str:
    """Return a page's text without its fenced blocks."""
    return _FENCE.sub("", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def links(page: str) -> list[str]:
    """Return what a page links to, or shows, in this project: paths and anchors."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_blocks(pages()[page]))
    return [link for link in found if not re.match("https?:|mailto:", link)]


def shape(line: str) -> str:
    """Return an output line without its numbers, the width of its columns, and the time."""
    line = re.sub(rf"[{_RULES}]+", "|", line.strip())
    line = re.sub(r"^\d\d:\d\d:\d\d ", "", line)
    return re.sub(r" +", " ", re.sub(r"[-+]?\d+(?:[.,]\d+)*", "N", line))


def shown_in_readme(beginning: str) -> list[str]:
    """Return the lines of output in the README that begin so, without that beginning.

    "predictor.1": what a demo's predictor prints.
    """
    lines = "".join(blocks("README.md", "text")).splitlines()
    found = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines]
    return [line[len(beginning) :].lstrip(" |") for line in found if line.startswith(beginning)]


def is_like(documented: str, printed: str) -> bool:
    """Return True if a line of a page has the shape of what was printed; ... is any text."""
    parts = [re.escape(part) for part in shape(documented).split("...")]
    return re.fullmatch(".*".join(parts), shape(printed)) is not None


def not_printed(documented: list[str], printed: str) -> list[str]:
    """Return the lines of a page that no printed line is like."""
    lines = printed.splitlines()
    return [each for each in documented if not any(is_like(each, line) for line in lines)]
