"""One node of a local Kafka: its properties, its process, and the folder that holds both."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tools.kafka_install import BrokerError, Kafka, run
from tools.kafka_probe import address, count_brokers, is_kafka, until

STOP_TIMEOUT = 20.0  # seconds for a broker to stop after SIGTERM, before it is killed
PROC = Path("/proc")

PROPERTIES = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # After a kill -9 the broker waits until its earlier registration has expired: 9 s by default.
    # Where there are several, its partitions have no leader for as long.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
}
ALONE = {
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
}
ONE_OF_THREE = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
}


class Node:
    """The node whose server.properties, broker.pid, broker.log and data are in a folder.

    number : its node.id, from 1.
    """

    def __init__(self, folder: Path, number: int = 1) -> None:
        self.folder, self.number = folder, number
        self._properties = folder / "server.properties"
        self._meta = folder / "data" / "meta.properties"  # Kafka writes it last as it formats

    @property
    def pid(self) -> int | None:
        """The pid of its process, if that runs.

        The system reuses pids, so the command must name the node's properties file.
        """
        try:
            pid = int((self.folder / "broker.pid").read_text())
        except (OSError, ValueError):
            return None
        # During exec() a process has no command for a moment.
        command = until(lambda: command_of(pid) or (not _exists(pid) and "gone"), 1)
        return pid if command and str(self._properties) in command else None

    @property
    def host(self) -> str:
        """The "name:port" of its first listener, as it was configured; empty if it was not."""
        first = _property(self._properties, "advertised.listeners").partition(",")[0]
        return first.partition("://")[2]

    @property
    def cluster(self) -> str:
        """The id of the cluster that its data is of; empty before they are formatted."""
        return _property(self._meta, "cluster.id")

    def configure(
        self, host: str, controllers: Mapping[int, int], extra: Mapping[str, str]
    ) -> None:
        """Write server.properties; all listeners are bound to 127.0.0.1 only.

        controllers : the port of each node's controller, by number; extra : more properties.
        """
        ports = f"PLAINTEXT://127.0.0.1:{address(host)[1]}"
        own = {
            "node.id": str(self.number),
            "listeners": f"{ports},CONTROLLER://127.0.0.1:{controllers[self.number]}",
            "advertised.listeners": f"PLAINTEXT://{host}",
            "controller.quorum.voters": ",".join(
                f"{number}@127.0.0.1:{port}" for number, port in controllers.items()
            ),
            "log.dirs": str(self.folder / "data"),
        }
        copies = ONE_OF_THREE if len(controllers) > 1 else ALONE
        # Java reads this file as Latin-1, and other characters as \uXXXX, as JSON writes them.
        values = {**PROPERTIES, **copies, **own, **extra}.items()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._properties.write_text("".join(f"{k}={json.dumps(v)[1:-1]}\n" for k, v in values))

    def launch(self, kafka: Kafka, cluster: str) -> None:
        """Start it in a session of its own, so that it outlives this terminal.

        cluster : the id with which its data are formatted first, unless they are.
        """
        if not self._meta.exists():
            config = ["--config", str(self._properties)]
            command = [*kafka.storage, "format", *config, "--cluster-id", cluster]
            run(command, kafka.env, self.folder)
        # The shell writes the pid: however this process ends, the broker has its pid file.
        script = '"$@" >broker.log 2>&1 </dev/null & echo $! >broker.pid'
        shell = ["sh", "-c", script, "sh", *kafka.server, str(self._properties)]
        subprocess.run(shell, cwd=self.folder, env=kafka.env, start_new_session=True, check=True)

    def wait(self, name: str, timeout: float) -> None:
        """Return when it answers; BrokerError, with what its log says, if it does not."""
        until(lambda: is_kafka(self.host, 1) or not self.pid, timeout)
        pid = self.pid
        if pid and is_kafka(self.host):
            return
        late = f"did not answer at {self.host} within {timeout:g} s"
        log = self.folder / "broker.log"
        lines = log.read_text(errors="replace").splitlines()
        # A broker logs the reason first, and much more while it stops.
        reasons = [line for line in lines if re.search("ERROR|FATAL|Exception|Error:", line)]
        tail = "\n  ".join(line[:300] for line in reasons[-5:] or lines[-15:])
        problem = late if pid else "exited while starting"
        raise BrokerError(f"{name} {problem}; from {log}:\n  {tail}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its process, if that runs."""
        if pid := self.pid:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def stop_all(nodes: list[Node]) -> list[int]:
    """Stop these nodes and return the pids of those that ran; killed after STOP_TIMEOUT seconds."""
    pids = [pid for pid in [node.pid for node in nodes] if pid]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for node in nodes:
            node.send(number)
        if until(lambda: not any(node.pid for node in nodes), STOP_TIMEOUT):
            break
    for node in nodes:
        (node.folder / "broker.pid").unlink(missing_ok=True)
    return pids


def wait_for_all(nodes: list[Node], name: str, timeout: float) -> None:
    """Return when all nodes answer, and each of them knows that all take part.

    BrokerError if they do not. name : of the Kafka that they run. Until a node takes part, topics
    can be created as if it did not exist.
    """
    for node in nodes:
        node.wait(name, timeout)
    if len(nodes) == 1:
        return
    if not until(lambda: all(count_brokers(n.host) == len(nodes) for n in nodes), timeout):
        raise BrokerError(f"{name}: {len(nodes)} brokers answer, but do not find each other")


def command_of(pid: int) -> str:
    """Return the command line of a process; empty if it has ended."""
    if PROC.is_dir():  # Linux; a small container has no ps
        with suppress(OSError):
            return os.fsdecode((PROC / str(pid) / "cmdline").read_bytes())
        return ""
    ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return os.fsdecode(subprocess.run(ps, capture_output=True).stdout)


def _property(file: Path, name: str) -> str:
    text = file.read_text() if file.exists() else ""
    return f"\n{text}".partition(f"\n{name}=")[2].partition("\n")[0]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True
