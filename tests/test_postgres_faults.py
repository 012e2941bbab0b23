"""The pipeline with its observations in PostgreSQL: processes killed, a host cut off."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import pytest

from tests.harness.pipeline import wait_until
from tests.harness.postgres import running_postgres
from train.store.observations import Observations
from train.store.one_trainer import only_trainer
from utils.files import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
def test_each_observation_counts_once_whatever_is_killed(pipeline, postgres):
    """Promises 5 and 6, while trainer and server are killed; one also starts without the other."""
    pipeline.environment["OBSERVATIONS_URL"] = postgres.url
    pipeline.predictor()
    trainer = pipeline.trainer()
    pipeline.requests(25)
    pipeline.wait_for_output(trainer, "Retraining: model 1")
    trainer.kill()
    trainer.wait()
    postgres.kill()
    trainer = pipeline.start("trainer.py", "--max-evals", "1")
    pipeline.wait_for_output(trainer, "Trying again")
    pipeline.requests(25)
    postgres.start()
    wait_until(lambda: pipeline.covered() == 2, 120)
    pipeline.wait_for_output(trainer, "Model 2 is the champion")
    postgres.kill()
    pipeline.requests(25)
    pipeline.wait_for_output(trainer, "unexpected postmaster exit. Trying again")
    postgres.start()
    last = pipeline.wait_for_control(lambda ms: ms[-1].get("retrain_requests_covered") == 3, 120)[
        -1
    ]
    assert last["observations"] == 75
    assert trainer.poll() is None
    with closing(Observations(pipeline.place)) as store:
        assert store.count() == 75
        names = ("retrain_requests", "retrain_requests_covered", "waiting_requests")
        assert [store.counter(name) for name in names] == [3, 3, 0]
    assert not (pipeline.folder / "data" / "observations.db").exists()
    shown = [path.read_bytes() for path in pipeline.folder.rglob("*.*") if path.is_file()]
    shown += [Path(f"/proc/{each.pid}/cmdline").read_bytes() for each in pipeline.processes[:1]]
    assert not any(b"pa55" in content for content in shown)


# What runs on the host that is cut off. It prints "stored" after each poll that it could store.
TRAINER = """
import sys, time, threading
from kafka import TopicPartition
from pydantic import SecretStr
from train.store.database import StoreError, StoreReplaced
from train.store.one_trainer import only_trainer
from train.store.place import Server
from utils.kafka_client.records import Position
with only_trainer(Server(SecretStr(sys.argv[1]), sys.argv[2]), threading.Event()) as store:
    while True:
        try:
            store.add([], 1, {TopicPartition("t", 0): Position(1)})
            print("stored", flush=True)
        except StoreReplaced:
            print("replaced", flush=True)
            break
        except StoreError as error:
            print(error, flush=True)
        time.sleep(0.2)
"""


@contextmanager
def another_host(number: int) -> Iterator[tuple[str, str, str]]:
    """A network namespace; the value is its name, the address of this host on a link, that link."""
    name, link = f"host{number}", f"link{number}"
    commands = [
        f"netns add {name}",
        f"link add {link} type veth peer name eth0 netns {name}",
        f"addr add 169.254.{number}.1/30 dev {link}",
        f"link set {link} up",
        f"-n {name} addr add 169.254.{number}.2/30 dev eth0",
        f"-n {name} link set eth0 up",
    ]
    try:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine has no network namespaces")
    try:
        yield name, f"169.254.{number}.1", link
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_the_next_trainer_begins_when_a_host_is_cut_off(tmp_path):
    with (
        another_host(os.getpid() % 250) as (host, address, link),
        running_postgres(listen_addresses=address) as server,
    ):
        place, log = server.place(), tmp_path / "log"
        command = ["ip", "netns", "exec", host, sys.executable, "-c", TRAINER, server.url]
        with open(log, "wb") as file:
            former = subprocess.Popen([*command, place.schema], cwd=ROOT, stdout=file)
        try:
            wait_until(lambda: "stored" in log.read_text())
            subprocess.run(["ip", "link", "set", link, "down"], check=True)
            began = time.monotonic()
            with only_trainer(place, Event()) as store:
                print(f"the next trainer began after {time.monotonic() - began:.1f} s")
                stored = store.counter("retrain_requests")
                subprocess.run(["ip", "link", "set", link, "up"], check=True)
                subprocess.run(["ip", "addr", "replace", f"{address}/30", "dev", link], check=True)
                wait_until(lambda: "replaced" in log.read_text(), what="the end of the former one")
                assert store.counter("retrain_requests") == stored
        finally:
            former.kill()
            former.wait()
