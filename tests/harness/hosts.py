"""Hosts of a network, as network namespaces: processes on two of them share the network only.

Needs root and Debian's iproute2. enter_network() puts the calling program itself on the first host,
which has the servers; see network_namespaces(7) and ip-netns(8).
"""

import os
import subprocess
import sys
import uuid
from contextlib import suppress

FIRST = "10.77.0.1"  # the address of the first host; no other network can be reached from here
INSIDE = "INSIDE_NETWORK"  # an environment variable that tells the program that it is on a host


def enter_network(module: str) -> None:
    """Run `python -m module` again, with the same arguments, as a program of the first host.

    Returns only there. SystemExit without the right to make namespaces.
    """
    if not os.environ.get(INSIDE):
        if os.geteuid():
            sys.exit("Hosts are network namespaces: only root can make them.")
        os.environ[INSIDE] = "1"
        command = ["unshare", "--net", sys.executable, "-m", module, *sys.argv[1:]]
        os.execvp("unshare", command)
    _ip("link set lo up")
    _ip("link add bridge0 type bridge")
    _ip(f"address add {FIRST}/24 dev bridge0")
    _ip("link set bridge0 up")


class Host:
    """A host beside the first one; number : 2 to 254, the end of its address."""

    def __init__(self, number: int) -> None:
        self.address = FIRST.rpartition(".")[0] + f".{number}"
        self._name = f"host-{uuid.uuid4().hex[:8]}"
        self._cable = f"cable{number}"
        _ip(f"netns add {self._name}")
        _ip(f"link add {self._cable} type veth peer name eth0 netns {self._name}")
        _ip(f"link set {self._cable} master bridge0 up")
        for command in (f"address add {self.address}/24 dev eth0", "link set eth0 up"):
            _ip(f"-n {self._name} {command}")
        _ip(f"-n {self._name} link set lo up")

    @property
    def enter(self) -> tuple[str, ...]:
        """What has to stand before a command that is to run on this host."""
        return ("ip", "netns", "exec", self._name)

    def cut_off(self) -> None:
        """Pull the cable: what is sent gets lost, and nobody is told."""
        _ip(f"link set {self._cable} down")

    def connect(self) -> None:
        """Plug the cable in again."""
        _ip(f"link set {self._cable} up")

    def remove(self) -> None:
        """Remove the host; processes on it must have ended. May be repeated."""
        with suppress(subprocess.CalledProcessError):
            _ip(f"netns delete {self._name}")


def _ip(arguments: str) -> None:
    command = ["ip", *arguments.split()]
    subprocess.run(command, check=True, capture_output=True)
