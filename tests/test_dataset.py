"""utils/datasets/adult.py with real files, a real web server on loopback and a really full disk."""

import functools
import hashlib
import io
import lzma
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.datasets import dataset
from utils.datasets.adult import BUNDLED, SHA256, fetch, outcome_of
from utils.datasets.base import DatasetError

NOWHERE = "http://127.0.0.1:9/adult.zip"  # the "discard" port: nobody listens there
UCI = {name: lzma.decompress((BUNDLED / f"{name}.xz").read_bytes()) for name in SHA256}
DAMAGED = UCI["adult.test"].replace(b"25, Private", b"26, Private", 1)


@functools.cache
def zipped(**changed: bytes | None) -> bytes:
    """UCI's archive; changed["test"] replaces adult.test, None leaves it out."""
    contents = {"Index": b"an index"} | UCI | {f"adult.{name}": c for name, c in changed.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(name, content)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers /adult.zip with what the server's `body` holds."""

    def do_GET(self):
        self.server.requests += 1
        if self.path != "/adult.zip":
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", self.server.length or len(self.server.body))
        self.end_headers()
        step = self.server.step or len(self.server.body)
        try:
            for start in range(0, len(self.server.body), step or 1):
                self.wfile.write(self.server.body[start : start + step])
                time.sleep(self.server.pause)
        except OSError:
            pass  # the client has had enough
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A web server on loopback that has UCI's archive."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.body, server.requests, server.length, server.step, server.pause = (
            zipped(),
            0,
            0,
            0,
            0,
        )
        server.url = f"http://127.0.0.1:{server.server_port}/adult.zip"
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def uci(tmp_path_factory) -> Path:
    """A folder with UCI's two files; tests only read it."""
    folder = tmp_path_factory.mktemp("uci")
    for name, content in UCI.items():
        (folder / name).write_bytes(content)
    return folder


def assert_complete(folder: Path) -> None:
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == UCI


# fetch


def test_files_come_from_the_archive(server, tmp_path, said):
    folder = tmp_path / "new" / "data"
    sentence = fetch(folder, server.url, say=said.append)
    assert_complete(folder)
    assert server.url in sentence
    assert said == []


def stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_right_files_are_kept_and_nothing_is_downloaded(server, tmp_path, said):
    fetch(tmp_path, server.url)
    before = [stamp(path) for path in sorted(tmp_path.iterdir())]
    sentence = fetch(tmp_path, server.url, say=said.append)
    assert [stamp(path) for path in sorted(tmp_path.iterdir())] == before
    assert server.requests == 1
    assert said == []
    assert "checked" in sentence


@pytest.mark.parametrize(
    "wrong",
    [DAMAGED, UCI["adult.test"][:-1], b"", UCI["adult.data"]],
    ids=["changed", "cut", "empty", "another file"],
)
def test_a_wrong_file_is_replaced_and_the_right_one_kept(server, tmp_path, said, wrong):
    fetch(tmp_path, server.url)
    kept = stamp(tmp_path / "adult.data")
    (tmp_path / "adult.test").write_bytes(wrong)
    sentence = fetch(tmp_path, server.url, say=said.append)
    assert_complete(tmp_path)
    assert stamp(tmp_path / "adult.data") == kept
    assert len(said) == 1
    assert "adult.test is not UCI's" in said[0]
    assert "replaced" in said[0]
    assert "adult.data" not in sentence


BAD_ARCHIVES = {
    "damaged member": lambda: zipped(test=DAMAGED),
    "truncated member": lambda: zipped(data=UCI["adult.data"][:-9]),
    "huge member": lambda: zipped(test=bytes(dataset.MAX_BYTES + 1)),
    "absent member": lambda: zipped(test=None),
    "truncated archive": lambda: zipped()[:200_000],
    "flipped bits": lambda: zipped().replace(zipped()[5000:5004], b"\0\0\0\0"),
    "no archive": lambda: b"<html>We are down for maintenance</html>",
    "empty answer": lambda: b"",
}


@pytest.mark.parametrize("archive", BAD_ARCHIVES.values(), ids=BAD_ARCHIVES)
def test_a_damaged_download_is_said_and_the_own_copy_taken(server, tmp_path, said, archive):
    server.body = archive()
    sentence = fetch(tmp_path, server.url, say=said.append)
    assert_complete(tmp_path)
    assert server.requests == 1
    assert len(said) == 1
    assert server.url in said[0]
    assert "own copy" in sentence


def test_a_connection_cut_in_the_middle_is_noticed(server, tmp_path, said):
    server.length = len(server.body)
    server.body = server.body[:-1000]
    assert "own copy" in fetch(tmp_path, server.url, timeout=2, say=said.append)
    assert_complete(tmp_path)


def test_an_absent_page_and_an_absent_server_are_said(server, tmp_path, said):
    fetch(tmp_path / "a", f"{server.url}.gone", say=said.append)
    fetch(tmp_path / "b", NOWHERE, say=said.append)
    assert_complete(tmp_path / "a")
    assert_complete(tmp_path / "b")
    assert "404" in said[0]
    assert "refused" in said[1]


def test_a_slow_server_does_not_hold_things_up(server, tmp_path, said):
    server.step, server.pause = 1000, 0.1  # a minute for all of it
    began = time.monotonic()
    fetch(tmp_path, server.url, timeout=0.5, say=said.append)
    assert time.monotonic() - began < 5
    assert "too slow" in said[0]
    assert_complete(tmp_path)


def test_a_silent_server_does_not_hold_things_up(tmp_path, said, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts, and never says a word
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/adult.zip"
        fetch(tmp_path, url, timeout=0.2, say=said.append)
    assert "timed out" in said[0]
    assert_complete(tmp_path)


def test_an_endless_answer_is_cut(server, tmp_path, said):
    server.body = bytes(dataset.MAX_BYTES + 10_000_000)
    fetch(tmp_path, server.url, say=said.append)
    assert "too large" in said[0]
    assert_complete(tmp_path)


def test_a_long_download_shows_its_progress(server, tmp_path, said, capsys):
    server.step, server.pause = 100_000, 0.5
    fetch(tmp_path, server.url, say=said.append)
    assert "UCI Adult" in capsys.readouterr().err
    assert said == []


@pytest.mark.parametrize("damage", ["cut", "not xz", "other content", "absent"])
def test_a_damaged_own_copy_is_an_error_that_names_it(tmp_path, damage):
    bundled, folder = tmp_path / "bundled", tmp_path / "folder"
    shutil.copytree(BUNDLED, bundled, ignore=shutil.ignore_patterns("adult.data", "adult.test"))
    path = bundled / "adult.test.xz"
    content = path.read_bytes()
    path.unlink()
    if damage != "absent":
        damaged = {
            "cut": content[:-100],
            "not xz": DAMAGED,
            "other content": lzma.compress(DAMAGED),
        }
        path.write_bytes(damaged[damage])
    folder.mkdir()
    (folder / "adult.test").write_bytes(DAMAGED)
    with pytest.raises(DatasetError, match=r"^[^\n]*adult\.test\.xz[^\n]*$"):
        fetch(folder, NOWHERE, say=lambda text: None, bundled=bundled)
    assert [path.name for path in folder.iterdir()] == ["adult.test"]


def test_only_the_copy_that_is_wanted_is_needed(tmp_path, said):
    bundled, folder = tmp_path / "bundled", tmp_path / "folder"
    for path in (bundled, folder):
        path.mkdir()
    shutil.copy(BUNDLED / "adult.test.xz", bundled)
    (folder / "adult.data").write_bytes(UCI["adult.data"])
    fetch(folder, NOWHERE, say=said.append, bundled=bundled)
    assert_complete(folder)


def test_the_own_copies_are_ucis_bytes():
    for name, content in UCI.items():
        assert hashlib.sha256(content).hexdigest() == SHA256[name]
        assert SHA256[name] in (BUNDLED / "README.md").read_text("utf-8")


# Nothing half-written


def run(program: str, *arguments: object, before: object = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=BUNDLED.parent,
        capture_output=True,
        text=True,
        preexec_fn=before,
    )


FETCH = f"""
import sys
from pathlib import Path
from utils.dataset import fetch
fetch(Path(sys.argv[1]), {NOWHERE!r})
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
    fetch(tmp_path, NOWHERE, say=lambda text: None)
    assert {path.stat().st_ino for path in (tmp_path, *tmp_path.iterdir())} == set(synced)


# Reading


def test_the_frames_are_the_features_and_the_outcomes(uci):
    for read, length, positive in (
        (dataset.read_training, 32_561, 7_841),
        (dataset.read_test, 16_281, 3_846),
    ):
        frame, outcomes = read(uci)
        assert tuple(frame.columns) == dataset.NUMERIC_COLUMNS + dataset.CATEGORICAL_COLUMNS
        assert len(frame) == len(outcomes) == length
        assert outcomes.dtype == np.float64
        assert (outcomes == 1).sum() == positive
        assert (outcomes == 0).sum() == length - positive
        assert (frame[[*dataset.NUMERIC_COLUMNS]].dtypes == np.int64).all()
        assert not frame.isna().any(axis=None)


def test_categories_have_no_blanks_and_the_question_mark_is_one_of_them(uci):
    frame, _ = dataset.read_training(uci)
    values = {name: set(frame[name]) for name in dataset.CATEGORICAL_COLUMNS}
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


def test_the_crossings_are_the_tutorials(uci):
    # 70 rows of adult.test, the first of them row 519, hold a pair that adult.data does not.
    (train, _), (test, _) = dataset.read_training(uci), dataset.read_test(uci)
    unseen = np.zeros(len(test), bool)
    for one, other in dataset.CROSSED_COLUMNS:
        known = set(zip(train[one], train[other], strict=True))
        unseen |= [pair not in known for pair in zip(test[one], test[other], strict=True)]
    assert unseen.sum() == 70
    assert unseen.argmax() == 519


def test_requests_are_the_rows_of_the_test_file(uci):
    requests = dataset.read_test_requests(uci)
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
    frame, outcomes = dataset.read_test(uci)
    assert [outcome_of(request[dataset.TARGET]) for request in requests] == outcomes.tolist()
    assert [{name: row[name] for name in frame} for row in requests] == frame.to_dict("records")


@pytest.mark.parametrize("read", [dataset.read_test, dataset.read_test_requests])
def test_a_changed_or_absent_file_is_refused(tmp_path, read):
    with pytest.raises(DatasetError, match=r"adult\.test can't be read \(No such file"):
        read(tmp_path)
    (tmp_path / "adult.test").write_bytes(DAMAGED)
    with pytest.raises(DatasetError, match=r"adult\.test is not UCI's"):
        read(tmp_path)


def test_requests_are_read_without_pandas(uci):
    program = """
import sys
from pathlib import Path
from utils.dataset import read_test_requests
print(len(read_test_requests(Path(sys.argv[1]))), "pandas" in sys.modules)
"""
    assert run(program, uci).stdout == "16281 False\n"


# Labels


@pytest.mark.parametrize("label", [">50K", ">50K.", " >50K", "\t>50K. \n"])
def test_a_positive_label_is_1(label):
    assert outcome_of(label) == 1.0


@pytest.mark.parametrize("label", ["<=50K", "<=50K.", " <=50K", "  <=50K.  "])
def test_a_negative_label_is_0(label):
    assert outcome_of(label) == 0.0


@pytest.mark.parametrize(
    "label", ["", ">50k", ">50K..", "> 50K", ">50K .", "1", None, 1.0, b">50K"]
)
def test_another_label_is_refused_and_named(label):
    with pytest.raises(ValueError, match="income_bracket: expected >50K or <=50K, got ") as error:
        outcome_of(label)
    assert str(error.value).endswith(repr(label))


@given(st.text())
def test_any_other_text_is_refused(text):
    if text.strip() in dataset.LABELS:
        assert outcome_of(text) in (0.0, 1.0)
    else:
        with pytest.raises(ValueError, match="income_bracket") as error:
            outcome_of(text * 100)
        assert len(str(error.value)) <= len("income_bracket: expected >50K or <=50K, got ") + 80
