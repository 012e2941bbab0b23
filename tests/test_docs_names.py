"""Names on the pages are names of the project: settings, variables of make, metrics."""

import re
import subprocess
from collections.abc import Iterable
from dataclasses import fields

import pytest
from prometheus_client.core import Metric

from monitoring.metrics import snapshot_metrics
from monitoring.metrics.exposition import Exposition
from monitoring.snapshot import Snapshot
from tests import page_samples
from tests.harness.pages import pages
from utils.files import ROOT
from utils.settings import Settings
from utils.telemetry import telemetry

SETTINGS = {name.upper() for name in Settings.model_fields}
# Environment variables that other programs read.
OF_OTHERS = {
    "AWS_ACCESS_KEY_ID",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "HTTPS_PROXY",
    "PIP_FIND_LINKS",
    "PIP_INDEX_URL",
    "PIP_NO_INDEX",
    "PYSPARK_PYTHON",
}
WORD = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
SET = re.compile(r"\b([A-Z][A-Z0-9_]+)=")  # what a command, or a sentence, sets
QUOTED = r"\"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\""  # as os.environ has it
CONSTANT = r"^([A-Z][A-Z0-9_]+)(?::[^=]*)? ="
MAKE = re.compile(r"make ([a-z-]+)((?: [A-Z_]+=\S+)+)")
ROW = re.compile(r"^\| `(\w+)` \| ([\w, ]+) \| (.*) \|$", re.MULTILINE)
ENDINGS = {"counter": "_total", "info": "_info"}  # of Prometheus' names


def source(*patterns: str) -> str:
    """Return the text of all files of the project whose names are like one of the patterns."""
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = (ROOT / name for name in listed.stdout.split())
    return "\n".join(path.read_text() for path in paths if path.exists())


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Settings, environment variables that some program of the project reads, and constants."""
    code = source("*.py", ":!tests")
    read = set(re.findall(QUOTED, code))
    files = source("Makefile", "deploy/*", "Procfile", "monitoring/Procfile", ":!*.md")
    variables = set(re.findall(r"\b[A-Z][A-Z0-9_]{2,}\b", files))
    return SETTINGS | OF_OTHERS | read | variables | set(re.findall(CONSTANT, code, re.MULTILINE))


def names_on(page: str) -> set[str]:
    quoted = " ".join(re.findall(r"`[^`\n]*`", pages()[page]))
    return {*WORD.findall(quoted), *SET.findall(pages()[page])}


@pytest.mark.parametrize("page", pages())
def test_every_setting_that_is_named_exists(page, known):
    assert names_on(page) - known == set()


def variables_of_make() -> Iterable[tuple[str, str]]:
    """Yield each target with each variable that a page gives it."""
    for text in pages().values():
        for target, given in MAKE.findall(text):
            yield from ((target, each.partition("=")[0]) for each in given.split())


@pytest.mark.parametrize(("target", "variable"), sorted(set(variables_of_make())))
def test_every_variable_of_a_make_target_changes_what_it_does(target, variable):
    if variable in SETTINGS:  # make gives it to the programs as an environment variable
        return
    assert done_by(target, f"{variable}=7") != done_by(target)


def done_by(*arguments: str) -> str:
    """Return the commands that make would run."""
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def rows(metrics: Iterable[Metric]) -> dict[str, tuple[str, str]]:
    """Return what docs/metrics.md has to say about metrics: name -> type and labels, text."""
    found = {}
    for metric in metrics:
        labels = list(dict.fromkeys(name for sample in metric.samples for name in sample.labels))
        kind = f"{metric.type} by {', '.join(labels)}" if labels else metric.type
        found[metric.name + ENDINGS.get(metric.type, "")] = (kind, metric.documentation)
    return found


def of_script(script: str) -> dict[str, tuple[str, str]]:
    """Return the metrics of a script's numbers, those too that are not known at its start."""
    return {
        f"pipeline_{script}_{each.name}{ENDINGS.get(each.metadata['kind'], '')}": (
            each.metadata["kind"],
            each.metadata["text"],
        )
        for each in fields(getattr(telemetry, script))
    }


def all_metrics() -> dict[str, tuple[str, str]]:
    of_each = (m for m in Exposition("").collect() if m.name.startswith("pipeline"))
    found = rows(of_each)
    for script in vars(telemetry):
        found |= of_script(script)
    return found | rows(snapshot_metrics.families(complete_snapshot()))


def complete_snapshot() -> Snapshot:
    snapshot = page_samples.alarming(now=0.0)
    assert None not in (snapshot.flow.group_lag, snapshot.outcome_delay.never)
    return snapshot


def test_the_page_of_metrics_has_every_metric():
    documented = ROW.findall(pages()["docs/metrics.md"])
    assert {name: (kind, text) for name, kind, text in documented} == all_metrics()
    assert len(documented) == len(all_metrics())


@pytest.mark.parametrize("page", pages())
def test_every_metric_that_is_named_exists(page):
    suffixes = ("", "_bucket", "_sum", "_count")
    exist = {name + suffix for name in all_metrics() for suffix in suffixes}
    named = re.findall(
        r"\bpipeline_(?:predictor|trainer|monitor|sample_app|initialize)_\w+", pages()[page]
    )
    assert set(named) - exist == set()
