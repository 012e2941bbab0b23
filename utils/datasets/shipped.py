"""Original files that ship with the project, compressed: unpacked and checked."""

import hashlib
import lzma
from pathlib import Path

from utils.datasets.base import DatasetError
from utils.files import ROOT, write_atomically

SHIPPED = ROOT / "data"  # compressed copies of the original files
_MAX_BYTES = 20_000_000  # a copy that unpacks to more is damaged


def unpack_shipped(folder: Path, digests: dict[str, str], shipped: Path = SHIPPED) -> str:
    """Unpack the files ({name: SHA-256}) that the folder lacks; return what was done as a sentence.

    A file with the right digest is kept; any other is replaced by `shipped`/<name>.xz, unpacked.
    DatasetError if that is missing or damaged, OSError if a file can't be written.
    """
    wanted = [name for name, digest in digests.items() if not _is_intact(folder / name, digest)]
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
        return _verified(path.read_bytes(), digest)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{path} can't be used ({reason}): run python initialize.py") from None


def _is_intact(path: Path, digest: str) -> bool:
    try:
        read_verified(path, digest)
    except DatasetError:
        return False
    return True


def _unpack(path: Path, digest: str) -> bytes:
    try:
        with lzma.open(path) as file:
            return _verified(file.read(_MAX_BYTES), digest)
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise DatasetError(f"{path} can't be used ({error})") from None


def _verified(content: bytes, digest: str) -> bytes:
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"damaged: its SHA-256 is not {digest[:12]}...")
    return content
