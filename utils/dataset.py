"""All that is about the data, here UCI Adult: the one file to change to run on data of your own.

The rest of the pipeline uses the columns, LABELS and outcome_of(), fetch(), read_training(),
read_test() and read_test_requests(); no other file knows a column or a label.
"""

import csv
import hashlib
import http.client
import io
import lzma
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.files import write_atomically

if TYPE_CHECKING:  # the predictor imports this file and needs no pandas
    import pandas as pd

# The columns of UCI's files, in their order and with the tutorial's names.
COLUMNS = (  # noqa: SIM905 - a list of them takes one line each
    "age workclass fnlwgt education education_num marital_status occupation relationship race sex "
    "capital_gain capital_loss hours_per_week native_country income_bracket"
).split()
TARGET = "income_bracket"
DROPPED = "education_num"  # says the same as education
NUMERIC_COLUMNS = ("age", "fnlwgt", "capital_gain", "capital_loss", "hours_per_week")
CATEGORICAL_COLUMNS = tuple(
    name for name in COLUMNS if name not in (*NUMERIC_COLUMNS, TARGET, DROPPED)
)
CROSSED_COLUMNS = (("education", "occupation"), ("native_country", "occupation"))

POSITIVE_LABEL, NEGATIVE_LABEL = ">50K", "<=50K"
LABELS = {POSITIVE_LABEL: 1.0, NEGATIVE_LABEL: 0.0}  # what a label means
LABELS |= {f"{label}.": outcome for label, outcome in LABELS.items()}  # UCI's test file has the "."

TRAINING_FILE, TEST_FILE = "adult.data", "adult.test"
SHA256 = {
    TRAINING_FILE: "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    TEST_FILE: "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}
UCI_URL = "https://archive.ics.uci.edu/static/public/2/adult.zip"
BUNDLED = Path(__file__).resolve().parent.parent / "data"  # the copies that ship with the project
MAX_BYTES = 20_000_000  # a larger archive, or a larger file in it, is not UCI's


class DatasetError(Exception):
    """Data that can't be used; the text says which file and why."""


def outcome_of(label: str) -> float:
    """Return 1.0 or 0.0 for a label, also with UCI's blanks or "."; ValueError for all else."""
    try:
        return LABELS[label.strip()]
    except (KeyError, AttributeError):
        expected = f"expected {POSITIVE_LABEL} or {NEGATIVE_LABEL}"
        raise ValueError(f"{TARGET}: {expected}, got {repr(label)[:80]}") from None


def turned_upside_down(row: dict) -> dict:
    """Return a row whose outcome is the opposite: the world after a drift, for sample_app.py."""
    high = outcome_of(row[TARGET]) == LABELS[POSITIVE_LABEL]
    return row | {TARGET: NEGATIVE_LABEL if high else POSITIVE_LABEL}


def read_training(folder: Path) -> tuple["pd.DataFrame", np.ndarray]:
    """Return the features of adult.data, numeric columns first, and the outcomes, 0.0 or 1.0."""
    return _read_frame(folder, TRAINING_FILE)


def read_test(folder: Path) -> tuple["pd.DataFrame", np.ndarray]:
    """Return the features and the outcomes of adult.test."""
    return _read_frame(folder, TEST_FILE)


def _read_frame(folder: Path, name: str) -> tuple["pd.DataFrame", np.ndarray]:
    import pandas as pd

    # na_filter=False: "?" and whatever else looks like a missing value is an ordinary category.
    frame = pd.read_csv(_lines(folder, name), names=COLUMNS, skipinitialspace=True, na_filter=False)
    outcomes = np.array([outcome_of(label) for label in frame[TARGET]])
    return frame[[*NUMERIC_COLUMNS, *CATEGORICAL_COLUMNS]], outcomes


def read_test_requests(folder: Path) -> list[dict]:
    """Return the rows of adult.test as the sample app sends them, each with its label."""
    rows = csv.DictReader(_lines(folder, TEST_FILE), COLUMNS, skipinitialspace=True)
    return [
        {
            name: int(value) if name in NUMERIC_COLUMNS else value
            for name, value in row.items()
            if name != DROPPED
        }
        for row in rows
    ]


def _lines(folder: Path, name: str) -> io.StringIO:
    """Return the verified file, to be read from its first row on."""
    lines = io.StringIO(_verified(folder / name).decode("ascii"))
    if name == TEST_FILE:
        lines.readline()  # "|1x3 Cross validator"
    return lines


def _verified(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path} can't be read ({error.strerror}): run python initialize.py"
        ) from None
    return _check(path.name, content, path)


def _check(name: str, content: bytes, origin: object) -> bytes:
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise DatasetError(f"{origin} is not UCI's {name}: it was damaged or changed")
    return content


def fetch(
    folder: Path,
    url: str = UCI_URL,
    timeout: float = 20,
    say: Callable[[str], object] = print,
    bundled: Path = BUNDLED,
) -> str:
    """Make sure that the folder holds UCI's two files, byte for byte; return what was done.

    Files that are right are kept. Others come from UCI or, where that fails, from the copies that
    ship with the project. DatasetError if those are damaged, OSError if the disk refuses.
    """
    wanted = [name for name in SHA256 if not _is_right(folder / name, say)]
    if not wanted:
        return f"{folder} holds {' and '.join(SHA256)}, checked."
    source = url
    try:
        contents = _download(wanted, url, timeout)
    except Exception as error:  # whatever is wrong over there, the copy here is as good
        say(f"{url} can't be used ({error}): taking the copy that ships with the project.")
        source = "the project's own copy"
        contents = {name: _unpack(bundled / f"{name}.xz", name) for name in wanted}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return f"{folder} has got {' and '.join(wanted)} from {source}, checked."


def _is_right(path: Path, say: Callable[[str], object]) -> bool:
    if not path.exists():
        return False
    try:
        _verified(path)
    except DatasetError as error:
        say(f"{error}. It will be replaced.")
        return False
    return True


def _download(names: Iterable[str], url: str, timeout: float) -> dict[str, bytes]:
    with urllib.request.urlopen(url, timeout=timeout) as response:  # noqa: S310 - digest checked
        content = _receive(response, time.monotonic() + timeout)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        # Bounded, whatever the archive says of a file's size.
        contents = {name: archive.open(name).read(MAX_BYTES) for name in names}
    return {name: _check(name, contents[name], "the one in the archive") for name in names}


def _receive(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """Read the answer, bounded in size and time; a progress bar appears if it takes long."""
    from tqdm import tqdm

    content = bytearray()
    with tqdm(desc="UCI Adult", total=response.length, unit="B", unit_scale=True, delay=1) as bar:
        while chunk := response.read1(65536):  # read() would wait until it has them all
            content += chunk
            bar.update(len(chunk))
            if len(content) > MAX_BYTES or time.monotonic() > deadline:
                raise TimeoutError(f"too slow or too large, {len(content):,} bytes so far")
    return bytes(content)


def _unpack(path: Path, name: str) -> bytes:
    try:
        with lzma.open(path) as file:
            return _check(name, file.read(MAX_BYTES), path)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DatasetError(f"{path}, the project's own copy, can't be read ({error})") from None
