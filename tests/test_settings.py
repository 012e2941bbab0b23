"""Settings that are more than a number or a name: what they accept, and what they say."""

from pathlib import Path

import pytest

from utils.files import ROOT
from utils.settings import load

DAY = 86_400


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", (None, None)),  # as if it were not set
        ("all", (None, None)),
        ("1", (1, None)),
        ("1000000", (1_000_000, None)),
        ("007", (7, None)),
        ("1d", (None, DAY)),
        ("365d", (None, 365 * DAY)),
    ],
)
def test_observations_are_kept_by_rows_or_by_days(monkeypatch, given, kept):
    monkeypatch.setenv("OBSERVATIONS_KEEP", given)
    assert load().observations_kept == kept


def test_all_observations_are_kept_by_default(monkeypatch):
    monkeypatch.delenv("OBSERVATIONS_KEEP", raising=False)
    assert load().observations_kept == (None, None)


@pytest.mark.parametrize(
    "wrong",
    ["0", "0d", "-1", "1.5d", "1e6", "1_000", "d", "365 d", "365D", "2w", "ALL", "1\n", "9" * 19]
    + ["\u0661\u0662"],
)
def test_what_observations_keep_can_not_be_is_one_sentence(monkeypatch, wrong):
    monkeypatch.setenv("OBSERVATIONS_KEEP", wrong)
    with pytest.raises(SystemExit) as caught:
        load()
    assert caught.value.code == (
        "OBSERVATIONS_KEEP: expected all, a number of rows like 1000000, or of days like 365d "
        f"(it is {wrong!r})"
    )


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("m", ROOT / "m"),
        ("/srv/m", Path("/srv/m")),
        ("s3://bucket/a/b-1/", "s3://bucket/a/b-1"),
        ("gs://bucket", "gs://bucket"),
        ("az://container/x", "az://container/x"),
    ],
)
def test_models_are_in_a_folder_or_in_an_object_store(monkeypatch, given, place):
    monkeypatch.setenv("MODELS_DIR", given)
    assert load().models_dir == place


def test_both_names_of_the_scheme_mean_postgresql(monkeypatch):
    for scheme in ("postgres", "postgresql"):
        monkeypatch.setenv("OBSERVATIONS_URL", f"{scheme}://u:p@h/postgres")
        assert load().observations_url.get_secret_value() == "postgresql://u:p@h/postgres"


@pytest.mark.parametrize(
    "wrong",
    [
        "s3:///x",
        "s3://b//x",
        "s3://key:secret@b/x",
        "s3://b/x?y=1",
        "http://b/x",
        "file:///x",
        "s3:/b/x",
        "gs:b",
        "s3://b/\n",
    ],
)
def test_what_is_no_place_for_models_is_one_sentence(monkeypatch, wrong):
    monkeypatch.setenv("MODELS_DIR", wrong)
    with pytest.raises(SystemExit) as caught:
        load()
    assert str(caught.value).startswith(
        "MODELS_DIR: expected a folder, or s3://bucket/prefix (also gs://, az://) (it is "
    )
