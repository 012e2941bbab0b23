"""Where the trainer's store is: in a file, or on a PostgreSQL server."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from train.store.database import Database, StoreError
from train.store.schema import SCHEMA, SCHEMA_VERSION
from train.store.upgrade import UPGRADES
from utils.settings import settings

if TYPE_CHECKING:
    from train.store.postgres import Postgres

FILE = "observations.db"  # in DATA_DIR
LONGEST_NAME = 63  # bytes; PostgreSQL cuts longer ones, and two prefixes would share a schema


@dataclass(frozen=True)
class Server:
    """A schema of a PostgreSQL database; its text names the host and never the password."""

    url: SecretStr = field(repr=False)
    schema: str

    def __str__(self) -> str:
        host = self.url.get_secret_value().partition("?")[0].rpartition("@")[2]
        return f"OBSERVATIONS_URL ({host.removeprefix('postgresql://').partition('/')[0]})"


Place = Path | Server


def schema_of(topic_prefix: str) -> str:
    """Return the name of the schema of the pipeline with this TOPIC_PREFIX."""
    name = f"observations_{topic_prefix}" if topic_prefix else "observations"
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    return f"{name[: LONGEST_NAME - len(digest)]}{digest}"


def _from_settings() -> Place:
    if settings.observations_url.get_secret_value():
        return Server(settings.observations_url, schema_of(settings.topic_prefix))
    return settings.data_dir / FILE


STORE = _from_settings()


def open_database(place: Place, read_only: bool = False) -> "Database | Postgres":
    """Open the store, and unless read_only create or upgrade its tables first; StoreError."""
    if isinstance(place, Path):
        return Database(place, SCHEMA, SCHEMA_VERSION, UPGRADES, read_only)
    database = connect(place, read_only)
    if not read_only:
        database.create(SCHEMA, SCHEMA_VERSION, UPGRADES)
    return database


def open_as_trainer(server: Server, wait: Callable[[], object]) -> "Postgres":
    """Open the store with the trainer's lock; StoreError.

    wait : called repeatedly while another process holds the lock; it may raise to give up.
    """
    database = connect(server)
    while not database.try_lock():
        wait()
    database.create(SCHEMA, SCHEMA_VERSION, UPGRADES)
    database.begin_epoch()
    return database


def connect(server: Server, read_only: bool = False) -> "Postgres":
    """Return the server's database, whatever is in it; it connects when it is used."""
    try:
        from train.store.postgres import Postgres
    except ImportError:
        needs = "it needs psycopg: pip install -r requirements-cluster.txt"
        raise StoreError(f"{server}: {needs}") from None
    return Postgres(server, read_only)
