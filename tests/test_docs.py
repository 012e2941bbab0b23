"""What the documentation says is what there is: commands, settings, files, budgets."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest

from tests.harness.pages import pages
from utils.files import ROOT
from utils.settings import Settings

DOCS = "\n".join(pages().values())
BUDGETS = {"predictor.py": 120, "trainer.py": 150, "initialize.py": 120, "sample_app.py": 150}
BUDGETS |= {"monitor.py": 150}


def test_the_settings_table_is_what_the_settings_say():
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| `([^|`]*)` \| (.*) \|$", pages()["docs/settings.md"], re.MULTILINE
    )
    assert rows == [
        (name.upper(), str(field.default) or "(empty)", field.description)
        for name, field in Settings.model_fields.items()
    ]


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"(?:`|^    )make ([a-z-]+)", DOCS, re.MULTILINE)))
)
def test_every_make_target_exists(target):
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@cache
def names_of_files() -> set[str]:
    """Return the names, without folders, of all files that git tracks."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return {path.rpartition("/")[2] for path in listed.stdout.splitlines()}


def named_files() -> list[tuple[str, str]]:
    """Return each page with each file that it names in backquotes."""
    files = re.compile(r"`([\w./-]+\.(?:py|md|txt|lock|ipynb|toml|yaml|yml|service|svg|png|html))`")
    return [(page, path) for page in pages() for path in sorted(set(files.findall(pages()[page])))]


@pytest.mark.parametrize(("page", "path"), named_files())
def test_every_file_that_is_named_exists(page, path):
    is_there = (ROOT / path).exists() or ((ROOT / page).parent / path).exists()
    assert is_there or path in names_of_files()  # in the folder that the page is about


COMMANDS = sorted(set(re.findall(r"(?<![\w-])python ((?:-m )?[\w./]+(?: --[a-z-]+ \S+)*)", DOCS)))


def program_of(command: str) -> tuple[str, ...]:
    """Return the script, or -m and the module."""
    words = command.split()
    return tuple(words[: 2 if words[0] == "-m" else 1])


def run_help(program: tuple[str, ...]) -> subprocess.CompletedProcess:
    command = [sys.executable, *program, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def helps(request) -> dict[tuple[str, ...], subprocess.CompletedProcess]:
    """What --help of each program prints; most of the time goes into imports."""
    mine = [item for item in request.session.items if item.path == request.path]
    found = (item.callspec.params for item in mine if hasattr(item, "callspec"))
    programs = sorted({program_of(each["command"]) for each in found if "command" in each})
    with ThreadPoolExecutor() as pool:
        return dict(zip(programs, pool.map(run_help, programs), strict=True))


def are_slow(commands: list[str]) -> list:
    """Return the commands, those of bench/ and tests/ as slow ones: they import all there is."""
    long = re.compile("-m (bench|tests)[.]")
    slow = pytest.mark.slow
    return [pytest.param(each, marks=slow) if long.match(each) else each for each in commands]


@pytest.mark.parametrize("command", are_slow(COMMANDS))
def test_every_python_command_exists_with_its_options(helps, command):
    shown = helps[program_of(command)]
    assert shown.returncode == 0, shown.stderr
    for option in (word for word in command.split() if word.startswith("--")):
        assert option in shown.stdout


@pytest.mark.parametrize(("script", "budget"), BUDGETS.items())
def test_scripts_keep_their_budgets(script, budget):
    assert len((ROOT / script).read_text().splitlines()) <= budget


def test_make_help_lists_every_target():
    shown = subprocess.run(
        ["make", "-s", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1]
    assert {line.split()[1] for line in shown.stdout.splitlines()} == set(phony.split())
