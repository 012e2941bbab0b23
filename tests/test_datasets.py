"""utils/datasets with real files and a really full disk."""

import hashlib
import lzma
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.datasets import dataset
from utils.datasets.adult import SHA256, read_test_requests
from utils.datasets.base import DatasetError
from utils.datasets.shipped import SHIPPED, unpack_shipped
from utils.files import ROOT

fetch, outcome_of = dataset.prepare, dataset.target.outcome_of

UCI = {name: lzma.decompress((SHIPPED / f"{name}.xz").read_bytes()) for name in SHA256}
DAMAGED = UCI["adult.test"].replace(b"25, Private", b"26, Private", 1)


@pytest.fixture(scope="module")
def uci(tmp_path_factory) -> Path:
    """A folder with UCI's two files; tests only read it."""
    folder = tmp_path_factory.mktemp("uci")
    for name, content in UCI.items():
        (folder / name).write_bytes(content)
    return folder


def assert_complete(folder: Path) -> None:
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == UCI


def stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


# fetch


def test_absent_files_are_unpacked(tmp_path):
    folder = tmp_path / "new" / "data"
    assert fetch(folder) == f"Unpacked adult.data and adult.test into {folder}, checked."
    assert_complete(folder)


def test_intact_files_are_kept(tmp_path):
    fetch(tmp_path)
    before = [stamp(path) for path in sorted(tmp_path.iterdir())]
    assert fetch(tmp_path) == f"{tmp_path} holds adult.data and adult.test, checked."
    assert [stamp(path) for path in sorted(tmp_path.iterdir())] == before


@pytest.mark.parametrize(
    "wrong",
    [DAMAGED, UCI["adult.test"][:-1], b"", UCI["adult.data"]],
    ids=["changed", "cut", "empty", "another file"],
)
def test_a_wrong_file_is_replaced_and_the_intact_one_kept(tmp_path, wrong):
    fetch(tmp_path)
    kept = stamp(tmp_path / "adult.data")
    (tmp_path / "adult.test").write_bytes(wrong)
    assert fetch(tmp_path) == (
        f"Unpacked adult.test into {tmp_path}, checked. Replaced, as damaged: adult.test."
    )
    assert_complete(tmp_path)
    assert stamp(tmp_path / "adult.data") == kept


@pytest.mark.parametrize("damage", ["cut", "not xz", "other content", "too large", "absent"])
def test_a_damaged_copy_is_an_error_that_names_it(tmp_path, damage):
    shipped, folder = tmp_path / "shipped", tmp_path / "folder"
    shutil.copytree(SHIPPED, shipped, ignore=shutil.ignore_patterns("adult.data", "adult.test"))
    path = shipped / "adult.test.xz"
    content = path.read_bytes()
    path.unlink()
    if damage != "absent":
        damaged = {
            "cut": content[:-100],
            "not xz": DAMAGED,
            "other content": lzma.compress(DAMAGED),
            "too large": lzma.compress(UCI["adult.test"] + bytes(20_000_000)),
        }
        path.write_bytes(damaged[damage])
    folder.mkdir()
    (folder / "adult.test").write_bytes(DAMAGED)
    (folder / "adult.data").write_bytes(UCI["adult.data"])
    with pytest.raises(DatasetError, match=r"^[^\n]*adult\.test\.xz[^\n]*$"):
        unpack_shipped(folder, SHA256, shipped)
    assert (folder / "adult.test").read_bytes() == DAMAGED


def test_only_the_copies_of_absent_files_are_read(tmp_path):
    shipped, folder = tmp_path / "shipped", tmp_path / "folder"
    for path in (shipped, folder):
        path.mkdir()
    shutil.copy(SHIPPED / "adult.test.xz", shipped)
    (folder / "adult.data").write_bytes(UCI["adult.data"])
    unpack_shipped(folder, SHA256, shipped)
    assert_complete(folder)


def test_the_copies_are_ucis_bytes():
    for name, content in UCI.items():
        assert hashlib.sha256(content).hexdigest() == SHA256[name]
        row = f"| `{name}` | {len(content):,} | `{SHA256[name]}` |"
        assert row in (SHIPPED / "README.md").read_text("utf-8")


# Nothing half-written


def run(program: str, *arguments: object, before: object = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=before,
    )


FETCH = """
import sys
from pathlib import Path
from utils.datasets import dataset
dataset.prepare(Path(sys.argv[1]))
"""


def test_a_full_disk_leaves_the_old_file(tmp_path):
    (tmp_path / "adult.data").write_bytes(b"old")

    def limit() -> None:  # in the child: a file may have a million bytes, adult.data has four
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    result = run(FETCH, tmp_path, before=limit)
    assert result.returncode == 1
    assert "File too large" in result.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"adult.data": b"old"}


def test_kill_before_the_rename_leaves_the_old_file(tmp_path):
    (tmp_path / "adult.data").write_bytes(b"old")
    killed = (
        "import os, signal\nos.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n" + FETCH
    )
    assert run(killed, tmp_path).returncode == -signal.SIGKILL
    assert (tmp_path / "adult.data").read_bytes() == b"old"
    assert not (tmp_path / "adult.test").exists()
    assert run(FETCH, tmp_path).returncode == 0
    assert {name: (tmp_path / name).read_bytes() for name in UCI} == UCI


def test_what_is_written_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), sync(fd)))
    fetch(tmp_path)
    assert {path.stat().st_ino for path in (tmp_path, *tmp_path.iterdir())} == set(synced)


# Reading


def test_the_frames_are_the_features_and_the_outcomes(uci):
    for read, length, positive in (
        (dataset.training, 32_561, 7_841),
        (dataset.test, 16_281, 3_846),
    ):
        frame, outcomes = read(uci)
        assert tuple(frame.columns) == dataset.numeric + dataset.categorical
        assert len(frame) == len(outcomes) == length
        assert outcomes.dtype == np.float64
        assert (outcomes == 1).sum() == positive
        assert (outcomes == 0).sum() == length - positive
        assert (frame[[*dataset.numeric]].dtypes == np.int64).all()
        assert not frame.isna().any(axis=None)


def test_categories_have_no_blanks_and_the_question_mark_is_one_of_them(uci):
    frame, _ = dataset.training(uci)
    values = {name: set(frame[name]) for name in dataset.categorical}
    assert all(value == value.strip() for each in values.values() for value in each)
    assert {name for name in values if "?" in values[name]} == {
        "workclass",
        "occupation",
        "native_country",
    }
    assert (frame["workclass"] == "?").sum() == 1836
    assert frame.iloc[0].to_dict() == {
        "age": 39,
        "workclass": "State-gov",
        "fnlwgt": 77516,
        "education": "Bachelors",
        "marital_status": "Never-married",
        "occupation": "Adm-clerical",
        "relationship": "Not-in-family",
        "race": "White",
        "gender": "Male",
        "capital_gain": 2174,
        "capital_loss": 0,
        "hours_per_week": 40,
        "native_country": "United-States",
    }


def test_requests_are_the_rows_of_the_test_file(uci):
    requests = read_test_requests(uci)
    assert len(requests) == 16_281
    assert list(requests[0].items()) == [
        ("age", 25),
        ("workclass", "Private"),
        ("fnlwgt", 226802),
        ("education", "11th"),
        ("marital_status", "Never-married"),
        ("occupation", "Machine-op-inspct"),
        ("relationship", "Own-child"),
        ("race", "Black"),
        ("gender", "Male"),
        ("capital_gain", 0),
        ("capital_loss", 0),
        ("hours_per_week", 40),
        ("native_country", "United-States"),
        ("income_bracket", "<=50K."),
    ]
    frame, outcomes = dataset.test(uci)
    assert [outcome_of(request[dataset.target.name]) for request in requests] == outcomes.tolist()
    assert [{name: row[name] for name in frame} for row in requests] == frame.to_dict("records")


@pytest.mark.parametrize("read", [dataset.test, read_test_requests])
def test_a_changed_or_absent_file_is_refused(tmp_path, read):
    with pytest.raises(DatasetError, match=r"adult\.test can't be used \(No such file"):
        read(tmp_path)
    (tmp_path / "adult.test").write_bytes(DAMAGED)
    with pytest.raises(DatasetError, match=r"adult\.test can't be used \(damaged: "):
        read(tmp_path)


def test_requests_are_read_without_pandas(uci):
    program = """
import sys
from pathlib import Path
from utils.datasets.adult import read_test_requests
print(len(read_test_requests(Path(sys.argv[1]))), "pandas" in sys.modules)
"""
    assert run(program, uci).stdout == "16281 False\n"


# Labels


@pytest.mark.parametrize("label", [">50K", ">50K."])
def test_a_positive_label_is_1(label):
    assert outcome_of(label) == 1.0


@pytest.mark.parametrize("label", ["<=50K", "<=50K."])
def test_a_negative_label_is_0(label):
    assert outcome_of(label) == 0.0


@pytest.mark.parametrize(
    "label", ["", ">50k", ">50K..", " >50K", ">50K .", "1", None, 1.0, True, b">50K", [">50K"]]
)
def test_another_label_is_refused_and_named(label):
    with pytest.raises(
        ValueError, match="income_bracket: expected one of <=50K, >50K, got "
    ) as error:
        outcome_of(label)
    assert str(error.value).endswith(repr(label))


@given(st.text())
def test_any_other_text_is_refused(text):
    if text in dataset.target.outcomes:
        assert outcome_of(text) in (0.0, 1.0)
    else:
        with pytest.raises(ValueError, match="income_bracket") as error:
            outcome_of(text * 100)
        assert (
            len(str(error.value)) <= len("income_bracket: expected one of <=50K, >50K, got ") + 80
        )


def test_after_a_drift_visitors_have_the_opposite_outcome(uci):
    target, rows = dataset.target.name, read_test_requests(uci)[:20]
    for number, (row, visitor) in enumerate(zip(rows, dataset.visitors(uci, 10), strict=False)):
        assert (outcome_of(visitor[target]) == outcome_of(row[target])) == (number < 10)
        assert visitor | {target: row[target]} == row


def test_a_row_is_described_in_a_few_words(uci):
    assert dataset.describe(read_test_requests(uci)[0]) == "25, Machine-op-inspct"
