"""Models in an object store: S3, and through the same library Google Cloud Storage and Azure.

An object is whole or absent, but there is no rename and no lock. So a model's content has its
digest in its name and is never replaced, and what may be replaced is: if its ETag is still that of
what the writer has read (RFC 9110, section 13.1.1), so that of two writers one wins. Credentials
and endpoint come from the environment, under the names that the store's own tools use:
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and others (obstore's documentation).
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from utils.model_store.card import MOST_BYTES, Card
from utils.model_store.storage import StorageAway, Stored

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# A request's time limit covers the whole of a model: 20 MB of it at 1 MB/s.
TIMEOUTS = {"connect_timeout": "3 s", "timeout": "20 s"}
RETRIES = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1)},
}
_ENDPOINT = "AWS_ENDPOINT_URL"
_ADDRESS = r"https?://([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?(/[^\s?#]*)?"
_TIMES = re.compile(r" in [0-9.]+[a-zµ]+(, after [0-9]+ retries.*?retry_timeout: [0-9.]+s )?")


class Bucket:
    """The objects below a URL such as s3://bucket/prefix.

    All methods raise StorageAway when the store does not answer, or refuses.
    """

    look_interval = 5.0  # seconds between two looks for a champion whose announcement was lost
    leftover_age = 3600.0  # seconds: somebody may be writing what nothing names yet
    is_shared = True
    is_away = False  # set by glance.py, to say it once

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"{url}/"

    def __str__(self) -> str:
        return self.name

    @cached_property
    def _store(self) -> "ObjectStore":
        try:
            from obstore.store import from_url
        except ImportError:
            install = "pip install -r requirements-cluster.txt"
            raise SystemExit(f"MODELS_DIR={self.url} needs obstore: {install}") from None
        # Without TLS only where the user has written http:// himself.
        is_plain = _checked_endpoint().startswith("http://")
        client = TIMEOUTS | ({"allow_http": True} if is_plain else {})
        try:
            return from_url(self.url, client_options=client, retry_config=RETRIES)
        except Exception as error:  # obstore has no common class for wrong settings
            raise SystemExit(f"MODELS_DIR={self.url}: {_first_line(error)}") from None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn obstore's errors into StorageAway, except those that say what is there."""
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except BaseError as error:
            raise StorageAway(f"{self.url} can't be used: {_first_line(error)}") from None

    def below(self, name: str) -> "Bucket":
        """Return what is below this prefix."""
        return Bucket(f"{self.url}/{name}")

    def prepare(self) -> None:
        """Check that it can be written to; SystemExit if both of two writers would win here."""
        name = f".model_check-{secrets.token_hex(8)}"  # a leftover of pruning.py, after a kill
        wins = [self.create(name, bytes([writer])) for writer in range(2)]
        _, mark = self.read_marked(name)
        wins += [self.swap(name, bytes([writer]), mark) for writer in range(2, 4)]
        self.delete(name)
        if wins != [True, False, True, False]:
            why = "it ignores conditional writes (If-Match, If-None-Match)"
            raise SystemExit(f"MODELS_DIR={self.url}: models can't be kept there, as {why}")

    def content_name(self, card: Card) -> str:
        """Return the name of the card's model: two trainers may both make a model of one id."""
        return f"model_{card.model_id}-{card.digest}.p"

    def read(self, name: str) -> bytes:
        """Return a content; FileNotFoundError, ValueError if it has more than MOST_BYTES."""
        return self._read(name)[0]

    def _read(self, name: str) -> tuple[bytes, dict[str, str]]:
        import obstore

        with self._errors():
            found = obstore.get(self._store, name)
            if found.meta["size"] > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
            # S3 and Azure compare the ETag, Google Cloud Storage its own number of the version.
            mark = {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name]}
            return bytes(found.bytes()), mark

    def read_marked(self, name: str) -> tuple[bytes | None, object]:
        """Return a content, None if there is none, and what swap() compares."""
        try:
            return self._read(name)
        except FileNotFoundError:
            return None, None

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a content."""
        self._put(name, content, "overwrite")

    def create(self, name: str, content: bytes) -> bool:
        """Write a content unless another one has its name."""
        return self._put(name, content, "create")

    def swap(self, name: str, content: bytes, mark: object) -> bool:
        """Replace a content if its mark is still this one (None: if there still is none).

        No two contents may be equal: the store marks them by a digest.
        """
        return self._put(name, content, "create" if mark is None else mark)

    def _put(self, name: str, content: bytes, mode: object) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            with self._errors():
                obstore.put(self._store, name, content, mode=mode, use_multipart=False)
            return True
        except FileNotFoundError as error:
            if not isinstance(mode, dict):  # else the object that was to be replaced is gone
                raise StorageAway(f"{self.url} can't be used: {_first_line(error)}") from None
        except (AlreadyExistsError, PreconditionError):
            # obstore repeats a write whose answer was lost, and the store then refuses it, although
            # the content that is there is ours.
            return self.read_marked(name)[0] == content
        return False

    def list(self) -> dict[str, Stored]:
        """Return what is here, by name, without what is below; other objects than ours too."""
        import obstore

        with self._errors():
            found = obstore.list_with_delimiter(self._store)["objects"]
        return {
            each["path"]: Stored(each["last_modified"].timestamp(), each["e_tag"])
            for each in found
            if each["path"]  # else it stands for the prefix itself
        }

    def state(self) -> object:
        """Return what changes whenever something is written or deleted here."""
        return {name: stored.mark for name, stored in self.list().items()}

    def delete(self, name: str) -> None:
        """Delete a content, if it is there."""
        import obstore

        with self._errors():
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError:
                return

    def clear(self) -> None:
        """Delete all that is here."""
        for name in self.list():
            self.delete(name)

    def locked(self) -> nullcontext:
        """Hold nothing: swap() finds out who was first."""
        return nullcontext()


def _checked_endpoint() -> str:
    """Return AWS_ENDPOINT_URL; SystemExit if it has no address of a server, on which Rust panics.

    As with all settings, an empty one is as if it were not set.
    """
    endpoint = os.environ.get(_ENDPOINT, "")
    if not endpoint:
        os.environ.pop(_ENDPOINT, None)  # obstore reads the environment, too
    elif not re.fullmatch(_ADDRESS, endpoint):
        expected = "expected http://host or https://host"
        raise SystemExit(f"{_ENDPOINT}: {expected} (it is {endpoint[:80]!r})")
    return endpoint


def _first_line(error: Exception) -> str:
    """Return an error of obstore without the server's page, times and debugging output."""
    text = str(error).split("\n")[0].split(": <")[0].removeprefix("Generic S3 error: ")
    return _TIMES.sub("", text)[:300]
