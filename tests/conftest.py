import os
import re
import shutil
from pathlib import Path

import hypothesis
import pytest

from tools import local_kafka

# Before the first import of utils.settings: the tests must never connect to a broker of the user's.
os.environ |= {"KAFKA_HOST": f"localhost:{local_kafka.free_port()}", "BROKER_TIMEOUT": "30"}
# Most tests wait for a new champion. Whether a model is good enough is for tests of the judge.
os.environ["PROMOTE"] = "always"
# What monitor.py logs takes seconds of CPU each time, and is for the tests of MLflow.
os.environ["MLFLOW_TRACKING_URI"] = "none"
SETTINGS = ["RETRAIN_EVERY", "PARTITIONS", "PREDICTOR_ID", "TOPIC_PREFIX", "DATA_DIR", "MODELS_DIR"]
SETTINGS += ["MODELS_KEY", "OBSERVATIONS_URL"]
SETTINGS += [
    name for name in os.environ if re.match("AWS_|KAFKA_(SEC|SASL|USER|PASS|CA|CERT|KEY)", name)
]
for name in SETTINGS:
    os.environ.pop(name, None)

from tests.harness.brokers import QUICK, initialize, running_broker  # noqa: E402
from tests.harness.left_visitors import Shop  # noqa: E402
from tests.harness.mail_server import MailServer  # noqa: E402
from tests.harness.object_store import ObjectStore  # noqa: E402
from tests.harness.pipeline import Pipeline  # noqa: E402
from tests.harness.postgres import PostgresServer, running_postgres  # noqa: E402
from utils import process  # noqa: E402
from utils.kafka_client.transactions import TransactionalStream  # noqa: E402
from utils.settings import settings  # noqa: E402

# A test that is slow because the machine is busy has not failed.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")

# When a call hangs, the watchdog has to end the run; it must not restart pytest.
process.MAX_RESTARTS = 0


@pytest.fixture(scope="session")
def broker(tmp_path_factory) -> Path:
    """A real Kafka at settings.kafka_host; the value is its folder."""
    folder = tmp_path_factory.mktemp("kafka")
    with running_broker(folder, settings.kafka_host):
        yield folder


@pytest.fixture(scope="session")
def postgres() -> PostgresServer:
    """A real PostgreSQL server; who stops it starts it again."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def first_model(tmp_path_factory) -> Path:
    """A folder with data/ and models/ as initialize.py makes them, after one evaluation."""
    folder = tmp_path_factory.mktemp("initialized")
    initialize(folder, *QUICK)
    return folder


@pytest.fixture
def pipeline(broker, first_model, tmp_path, request):
    """An initialized pipeline with its own topics and folders on the shared broker."""
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


@pytest.fixture(scope="session")
def object_store(tmp_path_factory) -> ObjectStore:
    """A running S3 server."""
    store = ObjectStore(tmp_path_factory.mktemp("objects"))
    store.start()
    yield store
    store.kill()


@pytest.fixture
def mail():
    """A running mail server."""
    with MailServer().running() as server:
        yield server


@pytest.fixture
def shop(pipeline, mail) -> Shop:
    """A shop whose visitors leave; its e-mails go to `mail`."""
    return Shop(pipeline, mail.port)
