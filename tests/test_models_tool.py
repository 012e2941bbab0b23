"""`python -m tools.models` as a person sees it; test_outcomes.py promotes a model under load."""

import os
import re
import shutil
import subprocess
import sys

import msgspec
import pytest

from tests.harness.terminal import run_on_a_terminal
from tests.test_model_store import add_copy, cut
from tools.local_kafka import free_port
from utils.files import ROOT
from utils.model_store.card import Card, Judgement
from utils.model_store.model import load_champion
from utils.model_store.registry import Registry


@pytest.fixture
def models(first_model, tmp_path):
    """The models 0 to 3: 2 is the champion, 1 its anchor."""
    folder = shutil.copytree(first_model / "models", tmp_path / "models")
    for model_id in (1, 2, 3):
        add_copy(folder, model_id, anchor=1)
    Registry(folder).promote(2)
    return folder


def without_kafka(folder) -> dict[str, str]:
    """Return the settings of these models, and of a Kafka that is not there."""
    host = f"localhost:{free_port()}"
    return {"MODELS_DIR": str(folder), "KAFKA_HOST": host, "BROKER_TIMEOUT": "1"}


def run(folder, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.models", *arguments]
    environment = os.environ | without_kafka(folder)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_list_marks_champion_and_anchor_and_has_one_line_for_each_model(models):
    cut(models / "model_3.json")
    header, *lines = run(models, "list").stdout.splitlines()
    assert header.split()[0] == "model"
    assert [re.match(r"\d+( \*| anchor)?", line)[0] for line in lines[:4]] == [
        "0",
        "1 anchor",
        "2 *",
        "3",
    ]
    assert lines[3].split(maxsplit=1)[1].strip() == "not usable, see below"
    [problem] = lines[4:]
    assert problem.startswith("model 3: model_3.json can't be read (")


def test_a_narrow_terminal_does_not_cut_the_columns_of_a_list_into_pieces(models):
    shown, _ = run_on_a_terminal(
        ["-m", "tools.models", "list"], without_kafka(models) | {"COLUMNS": "64"}
    )
    created = Registry(models).card(0).created[:16].replace("T", " ")
    assert shown.decode().count(created) == 4


def test_a_promotion_says_at_once_that_it_waits_for_kafka(models):
    ended = run(models, "promote", "1")
    assert ended.stdout.startswith("Waiting for Kafka at localhost:")
    assert ended.returncode == 1
    assert Registry(models).champion_id() == 2


def test_a_model_that_can_not_be_used_is_refused_before_kafka_is_waited_for(models):
    cut(models / "model_3.p")
    ended = run(models, "promote", "3")
    refused = "Not promoted: model 3: model_3.p does not match the digest in its card\n"
    assert (ended.stdout, ended.stderr) == ("", refused)


def test_an_archived_model_becomes_the_champion_again(pipeline):
    folder = pipeline.folder / "models"
    for model_id in (1, 2):
        add_copy(folder, model_id)
    Registry(folder).promote(2)
    assert Registry(folder).prune(keep=0) == [0, 1]
    pipeline.run("tools.models", "promote", "1")
    champion, warnings = load_champion(Registry(folder))
    assert (champion.model_id, warnings) == (1, [])


def test_an_archived_model_that_is_damaged_is_refused(models):
    Registry(models).prune(keep=0)
    [content] = (models / "archive").glob("3-*.p.zst")
    cut(content)
    assert run(models, "promote", "3").stderr.startswith("Not promoted: model 3: 3-")
    assert 3 not in Registry(models).ids()


def test_the_page_about_models_explains_every_field_of_a_card():
    page = (ROOT / "docs" / "models.md").read_text()
    names = [field.encode_name for field in msgspec.structs.fields(Card)]
    names += [f"judge.{field.encode_name}" for field in msgspec.structs.fields(Judgement)]
    explained = set(re.findall(r"`([a-z_.]+)`", page.partition("## The card")[2]))
    assert [name for name in names if name not in explained] == []
