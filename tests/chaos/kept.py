"""What a pipeline has kept, its observations and its models, read with no code of the pipeline."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.harness.pipeline import Pipeline

COUNTERS, KEYS = "SELECT name, value FROM counters", "SELECT key FROM positions"


def read_observations(pipeline: Pipeline) -> tuple[dict[str, int], set[bytes]]:
    """Return the trainer's counters, and the keys of its complete observations."""
    if url := pipeline.environment.get("OBSERVATIONS_URL"):
        return _read_from_server(url, f"observations_{pipeline.prefix}")
    path = pipeline.folder / "data" / "observations.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return dict(db.execute(COUNTERS)), {key for (key,) in db.execute(KEYS)}


def _read_from_server(url: str, schema: str) -> tuple[dict[str, int], set[bytes]]:
    import psycopg

    with psycopg.connect(url, options=f'-c search_path="{schema}"') as db:
        counters = dict(db.execute(COUNTERS).fetchall())
        return counters, {bytes(key) for (key,) in db.execute(KEYS).fetchall()}


def read_models(pipeline: Pipeline) -> dict[str, bytes]:
    """Return what is kept of the models that are not archived, by name."""
    place = pipeline.environment["MODELS_DIR"]
    if "://" not in place:
        files = Path(place).glob("*.*")
        return {path.name: path.read_bytes() for path in files if path.is_file()}
    import obstore

    store = _open(pipeline)
    names = [each["path"] for each in obstore.list_with_delimiter(store)["objects"]]
    return {name: bytes(obstore.get(store, name).bytes()) for name in names}


def read_champion(pipeline: Pipeline) -> int:
    """Return the id of the champion."""
    place = pipeline.environment["MODELS_DIR"]
    if "://" not in place:
        content = (Path(place) / "champion.json").read_bytes()
    else:
        import obstore

        content = bytes(obstore.get(_open(pipeline), "champion.json").bytes())
    return json.loads(content)["model_id"]


def _open(pipeline: Pipeline) -> object:
    from obstore.store import from_url

    settings = pipeline.environment
    login = {
        name.removeprefix("AWS_").lower(): value
        for name, value in settings.items()
        if name.startswith("AWS_")
    }
    client = {"allow_http": True}  # it is on this machine
    return from_url(settings["MODELS_DIR"], client_options=client, **login)
