import lzma
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

from tools import local_kafka
from utils.files import ROOT

# Before the first import of utils.settings: nothing here may ever touch a broker of the user's.
os.environ |= {"KAFKA_HOST": f"localhost:{local_kafka.free_port()}", "BROKER_TIMEOUT": "30"}
SETTINGS = ["RETRAIN_EVERY", "PARTITIONS", "PREDICTOR_ID", "TOPIC_PREFIX", "DATA_DIR", "MODELS_DIR"]
SETTINGS += [
    name for name in os.environ if re.match("KAFKA_(SEC|SASL|USER|PASS|CA|CERT|KEY)", name)
]
for name in SETTINGS:
    os.environ.pop(name, None)

from tests.harness.pipeline import Pipeline  # noqa: E402
from utils import process  # noqa: E402
from utils.kafka_client.transactions import TransactionalStream  # noqa: E402
from utils.settings import settings  # noqa: E402

# Other work on the machine is no error.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")

# A test that hangs ends the run; a fresh start of pytest would hide it.
process.MAX_RESTARTS = 0


@pytest.fixture(scope="session")
def broker(tmp_path_factory) -> Path:
    """A real Kafka at settings.kafka_host; the value is its folder."""
    folder = tmp_path_factory.mktemp("kafka")
    (folder / "jars").symlink_to(ROOT / ".kafka" / "jars")
    (ROOT / ".kafka").mkdir(exist_ok=True)
    local_kafka.start(settings.kafka_host, folder)
    yield folder
    local_kafka.stop(folder)


@pytest.fixture(scope="session")
def first_model(tmp_path_factory) -> Path:
    """A folder with data/ and models/ as initialize.py leaves them, tuned for a moment only."""
    folder = tmp_path_factory.mktemp("initialized")
    (folder / "data").mkdir()
    environment = os.environ | {
        "DATA_DIR": str(folder / "data"),
        "MODELS_DIR": str(folder / "models"),
    }
    # What initialize.py finds it keeps: no test waits for UCI's server.
    for name in ("adult.data", "adult.test"):
        local = ROOT / "data" / f"{name}.xz"
        (folder / "data" / name).write_bytes(lzma.decompress(local.read_bytes()))
    subprocess.run(
        [sys.executable, "initialize.py", "--max-evals", "1"],
        cwd=ROOT,
        env=environment,
        check=True,
    )
    return folder


@pytest.fixture
def pipeline(broker, first_model, tmp_path, request):
    """An initialized pipeline of its own topics and folders on the shared broker."""
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    pipeline = Pipeline(settings.kafka_host, prefix=f"t{os.urandom(4).hex()}-", folder=tmp_path)
    yield pipeline
    pipeline.stop_all()


@pytest.fixture
def stream(pipeline):
    """The member "p" of the predictors' group, alone on a topic of two partitions."""
    pipeline.create_topic("app_messages", partitions=2)
    topic = f"{pipeline.prefix}app_messages"
    stream = TransactionalStream(topic, f"{pipeline.prefix}predictors", "p", (topic,))
    yield stream
    stream.close()
