"""A real Kafka with TLS, SASL and ACLs on loopback, and the administration of its users.

Clients connect by SASL_SSL, or by SSL with a client certificate. Clients of the plaintext listener,
the health check and the administration, are super users; so is the controller. The certificates are
made with the openssl command.
"""

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tools import local_kafka
from utils.files import ROOT

PASSWORD = "pass-w0rd of $all"
PLAIN_USER = "plain-user"  # users of PLAIN are in the broker's properties
CERTIFICATE_USER = "CN=client"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_LOGIN = "org.apache.kafka.common.security"


class Right(NamedTuple):
    """An ACL as docs/security.md lists it: one operation of a script on one resource."""

    script: str
    kind: str  # "topic", "group" or "transactional id"
    name: str
    operation: str

    def acl(self, prefix: str = "") -> ACL:
        """Return the ACL for the script's user, and for a pipeline with this TOPIC_PREFIX."""
        kind = ResourceType[self.kind.upper().replace(" ", "_")]
        return ACL(
            f"User:{self.script}",
            "*",
            ACLOperation[self.operation],
            ACLPermissionType.ALLOW,
            ResourcePattern(kind, prefix + self.name),
        )


def documented_rights() -> list[Right]:
    """Return the table of docs/security.md, one right for each operation."""
    row = (
        r"^\| `([\w/]+\.py)`[^|]*\| (topic|group|transactional id) `([^`]+)`[^|]*\| ([A-Z, ]+) \|$"
    )
    rows = re.findall(row, (ROOT / "docs" / "security.md").read_text(), re.MULTILINE)
    return [
        Right(script, kind, name, operation)
        for script, kind, name, operations in rows
        for operation in operations.split(", ")
    ]


def make_certificate(folder: Path, name: str, *options: str) -> Path:
    """Make <name>.pem, a self-signed certificate for localhost, and <name>.key."""
    certificate = folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "2", *options]
    command += ["-subj", f"/CN={name}", "-keyout", str(folder / f"{name}.key")]
    command += ["-addext", "subjectAltName=DNS:localhost", "-out", str(certificate)]
    command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate


class SecureBroker:
    """The broker; `host` is for clients with passwords, `ssl_host` for those with certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = [local_kafka.free_port() for _ in range(4)]
        self.admin_host, self.host, self.ssl_host, self._controller = (
            f"localhost:{port}" for port in ports
        )
        self.certificate = make_certificate(folder, "broker", "-nodes")
        self.client_certificate = make_certificate(folder, "client", "-passout", f"pass:{PASSWORD}")
        both = (folder / "broker.key").read_text() + self.certificate.read_text()
        (folder / "keystore.pem").write_text(both)

    def start(self) -> None:
        """Start it; users and rights of an earlier start are kept."""
        local_kafka.start(self.admin_host, self.folder, properties=self._properties())

    def kill(self) -> None:
        """Kill it by SIGKILL, and wait until it is gone."""
        pid = int((self.folder / "broker.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """Stop it."""
        local_kafka.stop(self.folder)

    def _properties(self) -> dict[str, str]:
        names = {
            "PLAINTEXT": self.admin_host,
            "SASL_SSL": self.host,
            "SSL": self.ssl_host,
            "CONTROLLER": self._controller,
        }
        listeners = [
            f"{name}://{host.replace('localhost', '127.0.0.1')}" for name, host in names.items()
        ]
        advertised = [f"{name}://{host}" for name, host in names.items()][:3]
        scram = f"{_LOGIN}.scram.ScramLoginModule required;"
        users = f'user_{PLAIN_USER}="{PASSWORD}"'
        return {
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(advertised),
            "controller.quorum.voters": f"1@{listeners[3].partition('//')[2]}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,"
            + ",".join(f"{name}:{name}" for name in list(names)[:3]),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.folder / "keystore.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.client_certificate),
            "listener.name.ssl.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": ",".join(MECHANISMS),
            "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.sasl_ssl.plain.sasl.jaas.config": (
                f"{_LOGIN}.plain.PlainLoginModule required {users};"
            ),
        }

    def admin(self) -> KafkaAdminClient:
        """Return an administration client of a super user; close it after use."""
        return KafkaAdminClient(bootstrap_servers=self.admin_host)

    def add_user(self, name: str, password: str = PASSWORD) -> None:
        """Add a user for both SCRAM mechanisms, or change the password."""
        with self.admin() as admin:
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                user = UserScramCredentialUpsertion(name, mechanism, password)
                assert admin.alter_user_scram_credentials([user]) == {name: None}

    def grant(self, prefix: str, *rights: Right) -> None:
        """Add these ACLs."""
        with self.admin() as admin:
            assert not admin.create_acls([right.acl(prefix) for right in rights])["failed"]

    def revoke(self, prefix: str, *rights: Right) -> None:
        """Remove these ACLs."""
        with self.admin() as admin:
            for _, revoked, _ in admin.delete_acls([right.acl(prefix) for right in rights]):
                assert len(revoked) == 1
