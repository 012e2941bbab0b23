"""Runs a real Apache Kafka on this machine, if none is running: one node, or three.

    python -m tools.local_kafka start      (or status, stop; java: show which Java would run it)
    python -m tools.local_kafka start --brokers 3

A Kafka that already answers at KAFKA_HOST is used as it is. Otherwise `start` starts one that
tools/kafka_install.py finds or fetches, bound to 127.0.0.1 only, with all its files in .kafka/. It
outlives the terminal and keeps its data. `stop` stops it, and never a broker that was started
elsewhere.

Three brokers are three KRaft nodes, each with its files in .kafka/node-1 and so on: a topic has
three copies by default, two of which must have a record before it is acknowledged. They listen at
KAFKA_HOST's port and the next free ones, or at the three hosts that KAFKA_HOST names. `start`
starts those of them that are away.
"""

import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.kafka_install import FOLDER, BrokerError, find_java, usable_kafka
from tools.kafka_node import Node, stop_all, wait_for_all
from tools.kafka_probe import (
    address,
    free_port,
    is_free,
    is_kafka,
    listens,
    require_startable,
    until,
)
from utils.console import say
from utils.files import locked
from utils.script import command_line

CLUSTER = 3  # brokers
CLUSTER_HEAP = "-Xmx256m"  # of each


def start(
    host: str,
    folder: Path,
    timeout: float = 60,
    properties: Mapping[str, str] | None = None,
    brokers: int = 1,
) -> str:
    """Make sure that a Kafka answers at host; return a sentence that says what was done.

    folder : for its data. timeout : seconds until it must answer, and brokers find each other,
    after it was fetched, if that is necessary. properties : added to server.properties, unless some
    of its brokers are running. brokers : 1 or 3. BrokerError if no Kafka can be started; then no
    process is left running.
    """
    folder = Path(folder).resolve()
    with locked(folder / "start.lock"):
        nodes = _alone(folder) if brokers == 1 else _cluster(folder)
        ours = _running(folder)
        if is_kafka(host) and (not ours or brokers == 1):
            return f"Kafka is already running at {host} ({_origin(host, folder)})"
        if ours and (nodes[0].folder != ours[0].folder or not _serve(ours, host)):
            one = next(node for node in ours if node.pid)
            raise BrokerError(f"{folder} has a broker at {one.host} (pid {one.pid}): stop it")
        # What does not answer is still starting, and the process that started it is gone; or it
        # is stopping.
        until(lambda: not any(n.pid and not is_kafka(n.host, 1) for n in nodes), timeout)
        away = [node for node in nodes if not node.pid]
        if not away:
            return _wait("Kafka", nodes, timeout)
        none_runs = len(away) == len(nodes)
        chosen = _choose_hosts(host, nodes) if none_runs else [node.host for node in away]
        for each in chosen:
            require_startable(each)
        if none_runs:
            _configure(chosen, nodes, properties or {})
        return _launch(nodes, away, folder, timeout)


def _launch(nodes: list[Node], away: list[Node], folder: Path, timeout: float) -> str:
    kafka, new = usable_kafka(folder)
    # Nodes with different ids never find each other: an interrupted start may have formatted some.
    cluster = next((node.cluster for node in nodes if node.cluster), new)
    if len(nodes) > 1:
        kafka = kafka.with_heap(CLUSTER_HEAP)
    try:
        for node in away:
            node.launch(kafka, cluster)
        return _wait(kafka.name, nodes, timeout)
    except BaseException:  # Ctrl-C too: no half-started broker stays behind
        stop_all(away)
        raise


def _wait(name: str, nodes: list[Node], timeout: float) -> str:
    wait_for_all(nodes, name, timeout)
    return f"{name} is up at {','.join(n.host for n in nodes)} ({_pids(nodes)})"


def _configure(hosts: list[str], nodes: list[Node], properties: Mapping[str, str]) -> None:
    controllers, taken = {}, {address(each)[1] for each in hosts}
    for node in nodes:
        while (port := free_port()) in taken:
            pass
        taken.add(port)
        controllers[node.number] = port
    for node, own in zip(nodes, hosts, strict=True):
        node.configure(own, controllers, properties)


def _choose_hosts(host: str, nodes: list[Node]) -> list[str]:
    """Return a host for each node: those given, those of the last time, or the next free ports."""
    given, before = [each.strip() for each in host.split(",")], [node.host for node in nodes]
    if len(given) == len(nodes):
        return given
    if len(given) > 1:
        raise BrokerError(f"KAFKA_HOST names {len(given)} brokers, but {len(nodes)} are asked for")
    name, port = address(given[0])
    if before[0] == given[0] and all(is_free(address(each)[1]) for each in before[1:]):
        return before
    free = filter(is_free, range(port + 1, 65536))
    return given + [f"{name}:{next(free)}" for _ in nodes[1:]]


def stop(folder: Path) -> str:
    """Stop the brokers that start() started in folder, and no others; return what was done."""
    folder = Path(folder).resolve()
    nodes = _running(folder)
    pids = _pids(nodes)
    stop_all(nodes or _alone(folder))
    if not nodes:
        return f"nothing to stop: no Kafka was started in {folder}"
    kept = folder if len(nodes) > 1 else folder / "data"
    return f"Kafka ({pids}) is stopped; its data stays in {kept}"


def hosts(folder: Path) -> str:
    """Return the hosts of the brokers that start() started in folder, separated by commas."""
    return ",".join(node.host for node in _running(Path(folder).resolve()))


def was_started_here(host: str, folder: Path) -> bool:
    """Return True if the Kafka that runs at host is the one that start() started in folder."""
    return _serve(_running(Path(folder).resolve()), host)


def delete_data(host: str, folder: Path) -> str:
    """Delete the data of the Kafka that start() set up for host in folder; say what was done.

    BrokerError while a broker of this folder runs.
    """
    folder = Path(folder).resolve()
    with locked(folder / "start.lock"):
        if _running(folder):
            raise BrokerError(status(host, folder)[1])
        groups = [group for group in (_alone(folder), _cluster(folder)) if _serve(group, host)]
        data = [node.folder / "data" for group in groups for node in group]
        found = [each for each in data if each.exists()]
        if not found:
            return (
                f"No Kafka runs at {host}, and there is no data of one that was started here. If "
                "you run one of your own, its topics are kept, and a trainer would learn from them "
                "again: start it, and run this again."
            )
        for each in found:
            shutil.rmtree(each)
    return f"Deleted {', '.join(map(str, found))}: no Kafka runs at {host}."


def status(host: str, folder: Path) -> tuple[bool, str]:
    """Return whether a Kafka answers at host, and a sentence about what is there."""
    folder = Path(folder).resolve()
    nodes = _running(folder)
    if is_kafka(host):
        away = [node.host for node in nodes if not is_kafka(node.host)]
        missing = f"; no answer at {', '.join(away)}" if away and _serve(nodes, host) else ""
        return True, f"Kafka answers at {host} ({_origin(host, folder)}){missing}"
    if nodes:
        return False, f"no answer at {host}, but a broker for {hosts(folder)} runs ({_pids(nodes)})"
    if any(map(listens, host.split(","))):
        return False, f"what listens at {host} is not Kafka"
    return False, f"no Kafka runs at {host}"


def _alone(folder: Path) -> list[Node]:
    return [Node(folder)]


def _cluster(folder: Path) -> list[Node]:
    return [Node(folder / f"node-{number}", number) for number in range(1, CLUSTER + 1)]


def _running(folder: Path) -> list[Node]:
    """Return the nodes that start() started in folder, all of them if one runs, else none."""
    for nodes in (_alone(folder), _cluster(folder)):
        if any(node.pid for node in nodes):
            return nodes
    return []


def _serve(nodes: list[Node], host: str) -> bool:
    """Return True if one of the nodes was started for (one of) these hosts."""
    return bool({node.host for node in nodes} & {each.strip() for each in host.split(",")})


def _pids(nodes: list[Node]) -> str:
    found = [str(pid) for pid in [node.pid for node in nodes] if pid]
    return f"pid{'s'[: len(found) - 1]} {', '.join(found)}"


def _origin(host: str, folder: Path) -> str:
    nodes = _running(folder)
    return _pids(nodes) if _serve(nodes, host) else "not started from here"


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = command_line(__doc__, "tools.local_kafka")
    parser.add_argument("command", choices=["start", "status", "stop", "java"])
    parser.add_argument("--port", type=int, help="use localhost:PORT instead of KAFKA_HOST")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of its data (.kafka)")
    parser.add_argument("--brokers", type=int, choices=[1, CLUSTER], default=1, help="(1)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as on Ctrl-C
    try:
        return _do(arguments.command, arguments.port, arguments.folder, arguments.brokers)
    except (BrokerError, OSError) as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: a broker that was starting is stopped", file=sys.stderr)
    return 1


def _do(command: str, port: int | None, folder: Path, brokers: int) -> int:
    if command == "java":
        java = find_java()
        say(f"Java {java.version} in {java.home}")
        return 0
    if command == "stop":
        say(stop(folder))
        return 0
    host = f"localhost:{port}" if port else _configured_host()
    if command == "start":
        say(start(host, folder, brokers=brokers))
        _advise(host, folder)
        return 0
    up, text = status(host, folder)
    say(text)
    return 0 if up else 1


def _advise(host: str, folder: Path) -> None:
    """Say what KAFKA_HOST has to be: a script can't start while the only host it knows is away."""
    served = hosts(folder)
    if "," in served and "," not in host:
        say(f"For the scripts: export KAFKA_HOST={served}")


def _configured_host() -> str:
    from utils.settings import settings  # not at the top: `stop` must work with wrong settings

    return settings.kafka_host


if __name__ == "__main__":
    sys.exit(main())
