"""With MODELS_KEY set, a model whose card is not signed with it is refused before it is read."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import msgspec
import pytest
from pydantic import SecretStr

from tests.test_model_store import add_copy, edit_card
from tools import models
from utils.files import ROOT
from utils.model_store import model as model_module
from utils.model_store import pruning, signing
from utils.model_store.archive import Archive
from utils.model_store.card import Card, decode_card
from utils.model_store.model import load, load_champion, save
from utils.model_store.registry import ModelError, Registry
from utils.model_store.signing import Untrusted, seal, unseal
from utils.settings import load as load_settings
from utils.settings import settings

KEYS = ("k" * 32, "\N{KEY}" * 32)


@pytest.fixture
def folder(first_model, tmp_path):
    """A folder with the unsigned models 0, the champion, and 1."""
    shutil.copytree(first_model / "models", tmp_path / "models")
    add_copy(tmp_path / "models", 1)
    return tmp_path / "models"


@pytest.fixture
def use_key(monkeypatch):
    """A function that sets MODELS_KEY for what follows."""

    def use(key: str) -> None:
        changed = settings.model_copy(update={"models_key": SecretStr(key)})
        for module in (signing, models):
            monkeypatch.setattr(module, "settings", changed)

    return use


@pytest.fixture
def nothing_is_unpickled(monkeypatch):
    def fail(_):
        raise AssertionError("it was unpickled")

    monkeypatch.setattr(model_module, "loads", fail)


def test_a_signed_model_is_loaded_with_its_key_and_without_one(folder, use_key):
    use_key(KEYS[0])
    with pytest.raises(Untrusted):
        load(Registry(folder), 1)
    models.sign(Registry(folder))
    model = load(Registry(folder), 1)
    model.card.model_id = 2
    save(model, Registry(folder))
    assert load(Registry(folder), 2).card == model.card
    use_key("")
    assert load(Registry(folder), 2).card == model.card


@pytest.mark.parametrize(
    ("key", "change", "reason"),
    [
        (KEYS[1], {}, "was changed, or signed with another MODELS_KEY"),
        (KEYS[0], {"digest": "0" * 64}, "was changed, or signed with another MODELS_KEY"),
        (KEYS[0], {"signature": "0" * 64}, "was changed, or signed with another MODELS_KEY"),
        (KEYS[0], {"signature": ""}, "is not signed"),
        (KEYS[0], {"new_field": 1}, "is not signed"),
    ],
)
def test_what_is_not_signed_with_the_key_is_refused(
    folder, use_key, nothing_is_unpickled, key, change, reason
):
    use_key(KEYS[0])
    models.sign(Registry(folder))
    path = folder / "model_0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change, indent=2))
    use_key(key)
    with pytest.raises(Untrusted, match=f"^model 0: model_0.json {re.escape(reason)}"):
        load(Registry(folder), 0)


def test_another_models_signed_card_or_content_is_refused(folder, use_key, nothing_is_unpickled):
    use_key(KEYS[0])
    models.sign(Registry(folder))
    shutil.copy(folder / "model_1.json", folder / "model_0.json")
    with pytest.raises(ModelError, match="its card is that of model 1"):
        load(Registry(folder), 0)
    (folder / "model_1.p").write_bytes(pickle.dumps({}))
    with pytest.raises(ModelError, match="does not match the digest"):
        load(Registry(folder), 1)


def test_a_predictor_starts_with_a_signed_model_only(folder, use_key):
    use_key(KEYS[0])
    with pytest.raises(ModelError, match="model_0.json is not signed; model 1: model_1.json"):
        load_champion(Registry(folder))
    models.sign(Registry(folder))
    edit_card(rows=1)(folder / "model_0.p")
    model, [warning] = load_champion(Registry(folder))
    assert model.model_id == 1
    assert warning.startswith("model 0: model_0.json is not signed")


REFUSED = (
    "No model can be used (model 1: model_1.json is not signed): "
    "set the MODELS_KEY that signed them, or python -m tools.models sign"
)


def test_a_predictor_and_a_trainer_do_not_start_when_all_models_are_refused(folder, use_key):
    assert Registry(folder).exists()
    use_key(KEYS[0])
    with pytest.raises(SystemExit, match=f"^{re.escape(REFUSED)}$"):
        Registry(folder).exists()
    models.sign(Registry(folder))
    edit_card(rows=1)(folder / "model_1.p")
    assert Registry(folder).exists()


def test_initialize_makes_no_other_champion_in_place_of_a_refused_one(folder, first_model, use_key):
    use_key(KEYS[0])
    models.sign(Registry(folder))
    edit_card(rows=1)(folder / "model_0.p")  # the champion
    before = {path: path.read_bytes() for path in folder.iterdir()}
    places = {"MODELS_DIR": str(folder), "DATA_DIR": str(first_model / "data")}
    ended = subprocess.run(
        [sys.executable, "initialize.py", "--max-evals", "1"],
        cwd=ROOT,
        env=os.environ | places | {"MODELS_KEY": KEYS[0]},
        capture_output=True,
        text=True,
    )
    assert ended.stderr == REFUSED.replace("1", "0") + "\n"
    assert ended.returncode == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_fields_that_this_version_does_not_know_are_covered(use_key):
    use_key(KEYS[0])
    known = Card(
        model_id=1, rows=1, hyper="", evaluations=1, experiment="", seed=0, parameters={"a": 1.5}
    )
    newer = msgspec.json.format(msgspec.json.encode(known)[:-1] + b',"newer":{"a":[1]}}', indent=2)
    body = newer.removesuffix(b"\n}")
    content = body + b',\n  "signature": "' + signing._signature(body).encode() + b'"\n}'
    assert unseal(content, "x") == known == decode_card(content)
    assert unseal(seal(known), "x") == known
    with pytest.raises(Untrusted, match="^x was changed"):
        unseal(content.replace(b"1.5", b"1.6"), "x")


def test_archived_models_too(folder, use_key, capsys, nothing_is_unpickled):
    registry = Registry(folder)
    registry.prune(keep=0)
    use_key(KEYS[0])
    assert [*Archive(folder).cards()] == []
    models.sign(registry)
    said = capsys.readouterr().out
    assert re.search("Signed model 1, made 20.*\nSigned model 0, made .*\n2 cards are signed", said)
    [card] = Archive(folder).cards()
    assert Archive(folder).content(card)
    models.sign(registry)
    assert capsys.readouterr().out == "0 cards are signed now that were not.\n"
    use_key(KEYS[1])
    with pytest.raises(ModelError, match="no archived model has the digest"):
        Archive(folder).load(card.digest)


@pytest.mark.parametrize("audit_models", [0, 100])
def test_unsigned_models_are_not_pruned_as_if_they_were_damaged(
    folder, use_key, capsys, monkeypatch, audit_models
):
    changed = settings.model_copy(update={"audit_models": audit_models})
    monkeypatch.setattr(pruning, "settings", changed)
    add_copy(folder, 2)
    use_key(KEYS[0])
    assert Registry(folder).prune(keep=0) == []
    assert "models are kept for now: model 1: model_1.json is not signed" in (
        capsys.readouterr().out
    )
    assert Registry(folder).ids() == [0, 1, 2]


def test_a_damaged_model_is_not_signed(folder, use_key, capsys):
    use_key(KEYS[0])
    (folder / "model_1.p").write_bytes(b"")
    models.sign(Registry(folder))
    said = capsys.readouterr().out
    assert "Not signed: model 1: model_1.p does not match the digest in its card" in said
    assert "1 cards are signed" in said


def test_without_a_key_nothing_can_be_signed(folder):
    with pytest.raises(SystemExit, match="MODELS_KEY is not set"):
        models.sign(Registry(folder))


@pytest.mark.parametrize("wrong", ["short", "x" * 31])
def test_a_short_key_is_refused_and_not_shown(monkeypatch, wrong):
    monkeypatch.setenv("MODELS_KEY", wrong)
    with pytest.raises(SystemExit) as ended:
        load_settings()
    assert str(ended.value) == (
        "MODELS_KEY: expected at least 32 characters; make one: openssl rand -base64 32"
    )
    monkeypatch.setenv("MODELS_KEY", KEYS[0])
    assert KEYS[0] not in repr(load_settings())
