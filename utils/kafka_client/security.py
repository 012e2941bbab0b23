"""Encryption and login: TLS and SASL.

kafka-python 3.0.12 treats a wrong password or an untrusted certificate like an absent broker, and
retries until it times out: KafkaConnection.initialize() does not report the reason, and if the
broker closes the connection right after its answer, the answer is dropped as well
(_read_from_sock() in kafka/net/transport.py). So check_login() asks first, over a blocking socket.
"""

import re
import socket
import ssl

from kafka.errors import KafkaError, for_code
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.metadata import ApiVersionsRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from utils.settings import settings

ANSWER_TIMEOUT = 3  # seconds
_WRONG_HOST = (62, 64)  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH


class Refused(Exception):
    """Kafka rejects this client: a setting is wrong or an ACL is missing; the text names it.

    Retrying does not help, so it is no KafkaError: code that retries after those must not catch it.
    """


def security_options() -> dict:
    """Return the clients' settings for TLS and SASL; Refused if a certificate or key is invalid."""
    options = {"security_protocol": settings.kafka_security_protocol}
    if "SSL" in settings.kafka_security_protocol:
        options["ssl_context"] = _ssl_context()
    if "SASL" in settings.kafka_security_protocol:
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_username,
            "sasl_plain_password": settings.kafka_password.get_secret_value(),
        }
    return options


def _ssl_context() -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer that checks Kafka's certificate and host name."""
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca_file or None)
    except OSError as error:
        raise Refused(f"KAFKA_CA_FILE can't be loaded: {_reason(error)}.") from None
    if settings.kafka_certificate_file:
        key_file = settings.kafka_key_file or None
        # Always pass a password, even an empty one: without it OpenSSL prompts on the terminal.
        password = settings.kafka_key_password.get_secret_value()
        try:
            context.load_cert_chain(settings.kafka_certificate_file, key_file, password)
        except OSError as error:
            names = "KAFKA_CERTIFICATE_FILE, KAFKA_KEY_FILE and KAFKA_KEY_PASSWORD"
            raise Refused(f"{names} can't be used together: {_reason(error)}.") from None
    return context


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", None)  # OpenSSL's, in upper case
    return reason.replace("_", " ").lower() if reason else error.strerror or str(error)


def check_login(connection: socket.socket, host: str) -> None:
    """Log in on a new connection as every client does; Refused if Kafka rejects that.

    OSError if it does not answer, or not as Kafka does. The connection can't be used afterwards.
    """
    options = security_options()
    connection.settimeout(ANSWER_TIMEOUT)
    try:
        if "ssl_context" in options:
            connection = options["ssl_context"].wrap_socket(connection, server_hostname=host)
        with connection:
            _authenticate(connection, host, options)
    except ssl.SSLCertVerificationError as error:
        setting = "KAFKA_HOST" if error.verify_code in _WRONG_HOST else "KAFKA_CA_FILE"
        problem = error.verify_message.rstrip(".")
        raise Refused(f"Kafka's certificate is not trusted: {problem} ({setting}).") from None
    except ssl.SSLError as error:
        if re.search("alert.*(certificate|unknown ca)", _reason(error)):  # RFC 8446, 6.2
            problem = f"{_reason(error)} (KAFKA_CERTIFICATE_FILE)"
            raise Refused(f"Kafka does not accept our certificate: {problem}.") from None
        raise
    except (ValueError, KafkaError) as error:
        raise ConnectionError(f"not an answer of Kafka: {error}") from None


def _authenticate(connection: socket.socket, host: str, options: dict) -> None:
    protocol = KafkaProtocol()

    def ask(request):
        protocol.send_request(request)
        connection.sendall(protocol.send_bytes())
        while not (answers := protocol.receive_bytes(_receive(connection))):
            pass
        return answers[0][1]

    # With TLS 1.3 the broker's rejection of a certificate arrives only with its first answer.
    ask(ApiVersionsRequest(version=0))
    if "sasl_mechanism" in options:
        _log_in(ask, host, options)


def _receive(connection: socket.socket) -> bytes:
    received = connection.recv(4096)
    if not received:
        raise ConnectionError("Kafka has closed the connection")
    return received


def _log_in(ask, host: str, options: dict) -> None:
    """Log in by SASL (KIP-152)."""
    name = options["sasl_mechanism"]
    offered = ask(SaslHandshakeRequest(name, version=1))
    if offered.error_code:
        known = ", ".join(offered.mechanisms) or "none at this port (KAFKA_SECURITY_PROTOCOL)"
        raise Refused(f"Kafka does not support KAFKA_SASL_MECHANISM={name}; it supports {known}.")
    mechanism = get_sasl_mechanism(name)(host=host, **options)
    while not mechanism.is_done():
        answer = ask(SaslAuthenticateRequest(mechanism.auth_bytes(), version=1))
        if answer.error_code:
            raise Refused(
                f"Kafka does not accept KAFKA_USERNAME={settings.kafka_username} with this "
                f"KAFKA_PASSWORD: {answer.error_message or for_code(answer.error_code).__name__}."
            )
        mechanism.receive(answer.auth_bytes)
