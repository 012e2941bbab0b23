"""The models of a chaos run in an object store, which fails as stores do, and comes back."""

import json
import random
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import obstore
from obstore.store import S3Store

from tests.chaos.witness import Chronicle
from tests.harness.object_store import LOGIN, Fault, FaultProxy, ObjectStore
from tests.harness.pipeline import Pipeline

PREFIX = "chaos"


class ObjectModels:
    """A real S3 server behind a proxy; the scripts of the pipeline are sent there.

    Every few seconds it is away for up to ten, or the next write fails, is cut, or loses its
    answer.
    """

    def __init__(self, pipeline: Pipeline, chronicle: Chronicle, seed: int) -> None:
        folder = pipeline.folder / "objects"
        folder.mkdir()
        self._models, self._chronicle = pipeline.folder / "models", chronicle
        self._seed = seed
        self._server = ObjectStore(folder)
        self._server.start()
        self._proxy = FaultProxy(self._server.address)
        login = {name.removeprefix("AWS_").lower(): value for name, value in LOGIN.items()}
        self._store = S3Store(
            self._server.bucket,
            prefix=PREFIX,
            endpoint=f"http://{self._server.address}",
            client_options={"allow_http": True},
            **login,
        )
        for path in self._models.glob("*.*"):
            obstore.put(self._store, self._object(path), path.read_bytes())
        url = f"s3://{self._server.bucket}/{PREFIX}"
        pipeline.environment |= {"MODELS_DIR": url, **self._proxy.environment}
        self._calm = threading.Event()
        self._thread = threading.Thread(target=self._trouble)
        self._thread.start()

    def _object(self, path: Path) -> str:
        """Return the name of a file of a folder of models as an object."""
        if path.suffix != ".p":
            return path.name
        digest = json.loads(path.with_suffix(".json").read_text())["digest"]
        return f"{path.stem}-{digest}.p"

    def _trouble(self) -> None:
        chance = random.Random(self._seed)
        while not self._calm.wait(chance.uniform(2, 12)):
            kind = chance.choice(["away", "503", "half", "lost", "slow"])
            seconds = chance.uniform(1, 10) if kind == "away" else 0.0
            self._chronicle.write("CHAOS", f"object store: {kind} {seconds:.1f} s")
            if kind == "away":
                self._proxy.is_away = True
                self._calm.wait(seconds)
                self._proxy.is_away = False
            else:
                self._proxy.faults.append(Fault(kind, "PUT"))

    def calm(self) -> None:
        """End the faults."""
        self._calm.set()
        self._thread.join()
        self._proxy.faults.clear()

    def fetch(self) -> None:
        """Put what is there into the pipeline's folder of models, for the audit."""
        shutil.rmtree(self._models)
        self._models.mkdir()
        for each in obstore.list_with_delimiter(self._store)["objects"]:
            if each["path"].endswith(".json"):
                self._fetch(each["path"])

    def _fetch(self, name: str) -> None:
        path = self._models / name
        with suppress(FileNotFoundError):
            path.write_bytes(obstore.get(self._store, name).bytes())
            if name.startswith("model_"):
                model = path.with_suffix(".p")
                model.touch()  # so that its name is known when it is missing
                model.write_bytes(obstore.get(self._store, self._object(model)).bytes())

    def close(self) -> None:
        """Stop the server."""
        self.calm()
        self._proxy.close()
        self._server.kill()
