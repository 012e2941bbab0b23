"""The pages as a whole: their links, their pictures, their length, and how one finds them."""

import ast
import re
import statistics
import subprocess
from pathlib import Path

import pytest

from tests.harness.pages import anchors, links, pages
from utils.files import ROOT

README_LINES = range(180, 241)  # without empty ones: short enough to be read to its end
PAGE_LINES = 240
CODE_LINES = 320  # the longest file has the settings
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PICTURES = {path.name for kind in ("png", "svg") for path in (ROOT / "docs").glob(f"*.{kind}")}


def target(page: str, link: str) -> tuple[Path, str]:
    """Return the file and the anchor that a link of a page leads to."""
    path, _, anchor = link.partition("#")
    start = ROOT / page
    return ((start.parent / path).resolve() if path else start), anchor


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(page):
    for link in links(page):
        path, anchor = target(page, link)
        assert path.exists(), link
        assert path.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(path), link


def reachable(*first: str) -> set[str]:
    """Return the pages that one comes to from some pages by links, these included."""
    found, to_do = set(), [*first]
    while to_do:
        page = to_do.pop()
        if page in found or page not in pages():
            continue
        found.add(page)
        paths = (target(page, link)[0] for link in links(page))
        to_do += [str(path.relative_to(ROOT)) for path in paths]
    return found


def test_every_page_can_be_found():
    assert set(pages()) - reachable("README.md", "docs/README.md") == set()


def test_the_index_has_every_page_once():
    listed = [target("docs/README.md", link)[0] for link in links("docs/README.md")]
    expected = {ROOT / page for page in pages()} - {ROOT / "docs/README.md"}
    assert expected - set(listed) == set()
    assert len(listed) == len(set(listed))


def test_every_picture_is_shown_on_a_page():
    shown = {Path(link).name for page in pages() for link in links(page)}
    assert PICTURES - shown == set()


def test_the_readme_can_be_read_to_its_end():
    assert len(re.findall(r"^.*\S.*$", pages()["README.md"], re.MULTILINE)) in README_LINES


@pytest.mark.parametrize("page", set(pages()) - {"README.md"})
def test_no_page_is_long(page):
    assert len(pages()[page].splitlines()) <= PAGE_LINES


def code() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / path for path in listed.stdout.split() if (ROOT / path).exists()]


def test_files_and_functions_are_short():
    lengths = []
    for path in code():
        source = path.read_text()
        if not path.is_relative_to(ROOT / "tests"):
            assert len(source.splitlines()) <= CODE_LINES, path
            functions = (n for n in ast.walk(ast.parse(source)) if isinstance(n, FUNCTIONS))
            lengths += [each.end_lineno - each.lineno + 1 for each in functions]
    assert statistics.median(lengths) <= 12
    assert statistics.quantiles(lengths, n=10)[-1] <= 30
