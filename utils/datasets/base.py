"""What a data set module has to say, and the means to ship its files with the project.

A data set is a module with:

- NUMERIC_COLUMNS, CATEGORICAL_COLUMNS, CROSSED_COLUMNS, TARGET: the columns, by name;
- LABELS: what each label of the target means, 0.0 or 1.0, and outcome_of(label);
- fetch(folder): makes sure that the folder holds the original data, and says what it did;
- read_training(folder), read_test(folder): features as a DataFrame, outcomes as an array;
- read_test_requests(folder), describe(row), with_opposite_outcome(row): what the sample app sends,
  in how few words it shows a request, and how the world may change.
"""

import hashlib
import lzma
from pathlib import Path

from utils.files import ROOT, write_atomically

SHIPPED = ROOT / "data"  # the packed copies that ship with the project
_MAX_BYTES = 20_000_000  # a packed copy that unpacks to more is damaged


class DatasetError(Exception):
    """Data that can't be used; the text says which file and why."""


def unpack_shipped(folder: Path, digests: dict[str, str], shipped: Path = SHIPPED) -> str:
    """Make sure that the folder holds these files ({name: SHA-256}); return what was done.

    Files that are right are kept; others are unpacked from `shipped`/<name>.xz. DatasetError if a
    packed copy is damaged, OSError if the disk refuses.
    """
    wanted = [name for name, digest in digests.items() if not _is_right(folder / name, digest)]
    if not wanted:
        return f"{folder} holds {' and '.join(digests)}, checked."
    replaced = [name for name in wanted if (folder / name).exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        write_atomically(folder / name, _unpack(shipped / f"{name}.xz", digests[name]))
    text = f"Unpacked {' and '.join(wanted)} into {folder}, checked."
    return f"{text} Replaced, as damaged: {', '.join(replaced)}." if replaced else text


def read_verified(path: Path, digest: str) -> bytes:
    """Return a file's content; DatasetError if it can't be read or has another SHA-256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path} can't be read ({error.strerror}): run python initialize.py"
        ) from None
    return _verified(content, digest, path)


def _is_right(path: Path, digest: str) -> bool:
    try:
        read_verified(path, digest)
    except DatasetError:
        return False
    return True


def _unpack(path: Path, digest: str) -> bytes:
    try:
        with lzma.open(path) as file:
            return _verified(file.read(_MAX_BYTES), digest, path)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DatasetError(f"{path}, the project's own copy, can't be read ({error})") from None


def _verified(content: bytes, digest: str, origin: Path) -> bytes:
    if hashlib.sha256(content).hexdigest() != digest:
        raise DatasetError(f"{origin} was damaged or changed: its SHA-256 is not {digest[:12]}...")
    return content
