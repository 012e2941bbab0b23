"""Runs one real Apache Kafka node on this machine, if no other Kafka is running.

    python -m tools.local_kafka start      (or status, stop; java: show which Java would run it)

A Kafka that already answers at KAFKA_HOST is used as it is. Otherwise `start` starts one that
tools/kafka_install.py finds or fetches, bound to 127.0.0.1 only, with all its files in .kafka/. It
outlives the terminal and keeps its data. `stop` stops it, and never a broker that was started
elsewhere.
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from tools.kafka_install import FOLDER, BrokerError, Kafka, find_java, run, usable_kafka
from utils.console import say
from utils.files import locked
from utils.script import command_line

STOP_TIMEOUT = 20.0  # seconds for a broker to stop after SIGTERM, before it is killed
PROC = Path("/proc")
CORRELATION = 431  # any number; the response must repeat it
# A complete ApiVersions request: size, API key 18, version 0, correlation id, no client id.
API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, CORRELATION, -1)

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # After a kill -9 the broker waits until its earlier registration has expired: 9 s by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
}


def start(
    host: str, folder: Path, timeout: float = 60, properties: Mapping[str, str] | None = None
) -> str:
    """Make sure that a Kafka answers at host; return a sentence that says what was done.

    folder : for its data. timeout : seconds until it must answer, after it was fetched, if that
    is necessary. properties : added to server.properties. BrokerError if no Kafka can be started;
    then no process is left running.
    """
    folder = Path(folder).resolve()
    with locked(folder / "start.lock"):
        pid = _running(folder)
        if is_kafka(host):
            return f"Kafka is already running at {host} ({_origin(host, folder)})"
        if pid and _served(folder) != host:
            raise BrokerError(f"{folder} has a broker at {_served(folder)} (pid {pid}): stop it")
        if pid:  # it is still starting, and the process that started it is gone; or it is stopping
            _until(lambda: is_kafka(host, 1) or not _running(folder), timeout)
            if _running(folder):
                return _wait_for_kafka("Kafka", host, folder, timeout)
        _refuse(host)
        kafka, cluster = usable_kafka(folder)
        (folder / "server.properties").write_text(_properties(host, folder, properties or {}))
        _format(kafka, cluster, folder)
        try:
            _launch(kafka, folder)
            return _wait_for_kafka(kafka.name, host, folder, timeout)
        except BaseException:  # Ctrl-C too: no half-started broker stays behind
            stop(folder)
            raise


def stop(folder: Path) -> str:
    """Stop the broker that start() started in folder, and no other; return what was done."""
    folder = Path(folder).resolve()
    pid = _running(folder)
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            if not _until(lambda: not _running(folder), STOP_TIMEOUT):
                os.kill(pid, signal.SIGKILL)
                _until(lambda: not _running(folder), STOP_TIMEOUT)
    (folder / "broker.pid").unlink(missing_ok=True)
    if not pid:
        return f"nothing to stop: no Kafka was started in {folder}"
    return f"Kafka (pid {pid}) is stopped; its data stays in {folder / 'data'}"


def was_started_here(host: str, folder: Path) -> bool:
    """Return True if the broker that runs at host is the one that start() started in folder."""
    return _pid_at(host, Path(folder).resolve()) is not None


def delete_data(host: str, folder: Path) -> str:
    """Delete the data of the broker that start() set up for host in folder; say what was done.

    BrokerError while a broker of this folder runs.
    """
    folder = Path(folder).resolve()
    with locked(folder / "start.lock"):
        if _running(folder):
            raise BrokerError(status(host, folder)[1])
        if not (folder / "data").exists() or _served(folder) != host:
            return (
                f"No Kafka runs at {host}, and there is no data of one that was started here. If "
                "you run one of your own, its topics are kept, and a trainer would learn from them "
                "again: start it, and run this again."
            )
        shutil.rmtree(folder / "data")
    return f"Deleted {folder / 'data'}: no Kafka runs at {host}."


def status(host: str, folder: Path) -> tuple[bool, str]:
    """Return whether a Kafka answers at host, and a sentence about what is there."""
    folder = Path(folder).resolve()
    if is_kafka(host):
        return True, f"Kafka answers at {host} ({_origin(host, folder)})"
    if pid := _running(folder):
        return False, f"no answer at {host}, but a broker for {_served(folder)} runs (pid {pid})"
    if _listens(host):
        return False, f"what listens at {host} is not Kafka"
    return False, f"no Kafka runs at {host}"


def is_kafka(host: str, timeout: float = 5) -> bool:
    """Return True if a Kafka at host ("name:port", or several, with commas) answers ApiVersions."""
    return any(_answers(_address(one), timeout) for one in host.split(","))


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens at, below the ephemeral ports.

    While the broker is away, a client that connects to an ephemeral port may be given the same one
    for its own end: TCP then connects it to itself, and the broker can't bind its port again.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _address(host: str) -> tuple[str, int]:
    name, _, port = host.strip().rpartition(":")
    if not name or not port.isdigit() or not 0 < int(port) < 65536:
        raise BrokerError(f"KAFKA_HOST must look like localhost:9092, not {host!r}")
    return name.strip("[]"), int(port)


def _answers(address: tuple[str, int], timeout: float) -> bool:
    try:
        with socket.create_connection(address, timeout) as connection:
            connection.sendall(API_VERSIONS)
            with connection.makefile("rb") as stream:
                answer = stream.read(10)  # size, correlation, error code
    except OSError:
        return False
    return answer[4:] == struct.pack(">ih", CORRELATION, 0)


def _listens(host: str) -> bool:
    try:
        with socket.create_connection(_address(host), 5):
            return True
    except OSError:
        return False


def _refuse(host: str) -> None:
    """Raise BrokerError if no broker can be started: the port is in use, or the host is remote."""
    name, port = _address(host)
    if _listens(host):
        raise BrokerError(
            f"port {port} is in use by something that is not Kafka: stop it (`lsof -i :{port}` "
            f"names it), or set KAFKA_HOST to another port"
        )
    with suppress(OSError):
        if socket.gethostbyname(name) == "127.0.0.1":
            return
    raise BrokerError(f"no Kafka answers at {host}, and it can be started at localhost only")


def _running(folder: Path) -> int | None:
    """Return the pid of folder's broker, if it runs.

    The system reuses pids, so the command must name the broker's properties file.
    """
    try:
        pid = int((folder / "broker.pid").read_text())
    except (OSError, ValueError):
        return None
    # During exec() a process has no command for a moment.
    command = _until(lambda: _command(pid) or (not _exists(pid) and "gone"), 1)
    return pid if command and str(folder / "server.properties") in command else None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def _command(pid: int) -> str:
    if PROC.is_dir():  # Linux; a small container has no ps
        with suppress(OSError):
            return os.fsdecode((PROC / str(pid) / "cmdline").read_bytes())
        return ""
    ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return os.fsdecode(subprocess.run(ps, capture_output=True).stdout)


def _served(folder: Path) -> str:
    """Return the host that folder's broker was started for."""
    text = (folder / "server.properties").read_text()
    return text.partition("advertised.listeners=PLAINTEXT://")[2].partition("\n")[0]


def _origin(host: str, folder: Path) -> str:
    pid = _pid_at(host, folder)
    return f"pid {pid}" if pid else "not started from here"


def _pid_at(host: str, folder: Path) -> int | None:
    """Return the pid of folder's broker if it runs for this host."""
    pid = _running(folder)
    return pid if pid and _served(folder) == host else None


def _properties(host: str, folder: Path, extra: Mapping[str, str]) -> str:
    """Return the text of server.properties; both listeners are bound to 127.0.0.1 only."""
    port = _address(host)[1]
    while (controller := free_port()) == port:
        pass
    own = {
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://{host}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "log.dirs": str(folder / "data"),
    }
    # Java reads this file as Latin-1, and other characters as \uXXXX, as JSON writes them.
    values = {**PROPERTIES, **own, **extra}.items()
    return "".join(f"{name}={json.dumps(value)[1:-1]}\n" for name, value in values)


def _format(kafka: Kafka, cluster: str, folder: Path) -> None:
    """Format folder's data, unless it is formatted: Kafka writes meta.properties last."""
    if not (folder / "data" / "meta.properties").exists():
        config = ["--config", str(folder / "server.properties")]
        run([*kafka.storage, "format", *config, "--cluster-id", cluster], kafka.env, folder)


def _launch(kafka: Kafka, folder: Path) -> None:
    """Start the broker in a session of its own, so that it outlives this terminal."""
    # The shell writes the pid: however this process ends, the broker has its pid file.
    script = '"$@" >broker.log 2>&1 </dev/null & echo $! >broker.pid'
    shell = ["sh", "-c", script, "sh", *kafka.server, str(folder / "server.properties")]
    subprocess.run(shell, cwd=folder, env=kafka.env, start_new_session=True, check=True)


def _wait_for_kafka(name: str, host: str, folder: Path, timeout: float) -> str:
    _until(lambda: is_kafka(host, 1) or not _running(folder), timeout)
    pid = _running(folder)
    if pid and is_kafka(host):
        return f"{name} is up at {host} (pid {pid})"
    problem = f"did not answer at {host} within {timeout:g} s" if pid else "exited while starting"
    log = folder / "broker.log"
    lines = log.read_text(errors="replace").splitlines()
    # A broker logs the reason first, and much more while it stops.
    reasons = [line for line in lines if re.search("ERROR|FATAL|Exception|Error:", line)]
    tail = "\n  ".join(line[:300] for line in reasons[-5:] or lines[-15:])
    raise BrokerError(f"{name} {problem}; from {log}:\n  {tail}")


def _until(condition: Callable, timeout: float) -> object:
    """Return the condition's first true value, False if it stays false for timeout seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return value


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = command_line(__doc__, "tools.local_kafka")
    parser.add_argument("command", choices=["start", "status", "stop", "java"])
    parser.add_argument("--port", type=int, help="use localhost:PORT instead of KAFKA_HOST")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of its data (.kafka)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as on Ctrl-C
    try:
        return _do(arguments.command, arguments.port, arguments.folder)
    except (BrokerError, OSError) as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: a broker that was starting is stopped", file=sys.stderr)
    return 1


def _do(command: str, port: int | None, folder: Path) -> int:
    if command == "java":
        java = find_java()
        say(f"Java {java.version} in {java.home}")
        return 0
    if command == "stop":
        say(stop(folder))
        return 0
    host = f"localhost:{port}" if port else _configured_host()
    up, text = (True, start(host, folder)) if command == "start" else status(host, folder)
    say(text)
    return 0 if up else 1


def _configured_host() -> str:
    from utils.settings import settings  # not at the top: `stop` must work with wrong settings

    return settings.kafka_host


if __name__ == "__main__":
    sys.exit(main())
