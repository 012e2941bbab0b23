"""What this client is authorized to do, and which errors no waiting mends.

Rights are checked at the start, all at once: a missing one must not show only with the first
invalid request, or at the end of the first training.
"""

from contextlib import closing

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAuthorizationFailedError

from utils.kafka_client.connection import is_reachable, make_admin
from utils.kafka_client.security import Refused
from utils.settings import settings

identity: dict[str, str] = {}  # this process' group and transactional id, as refusals name them
_needed: dict[str, set[str]] = {}  # topic -> the operations of this script on it


def _check_rights(admin: KafkaAdminClient) -> None:
    """Raise Refused, naming all rights on topics that are missing."""
    missing = []
    for topic in admin.describe_topics(list(_needed)):
        allowed = set(topic["authorized_operations"] or ())
        if allowed or _is_forbidden(topic):  # brokers before 2.3 don't tell
            lacking = sorted(_needed[topic["name"]] - allowed)
            missing += [f"{operation} on topic {topic['name']}" for operation in lacking]
    if missing:
        raise not_allowed(*missing)


def _is_forbidden(topic: dict) -> bool:
    return topic["error_code"] == TopicAuthorizationFailedError.errno


def not_allowed(*rights: str) -> Refused:
    """Return the error that names the rights that are missing."""
    user = f"KAFKA_USERNAME={settings.kafka_username}" if settings.kafka_username else "This client"
    return Refused(f"{user} has no right to {', '.join(rights)}; docs/security.md lists the ACLs.")


def refusal(error: Exception) -> Refused | None:
    """Return the reason, if waiting does not mend this error of a running client; else None."""
    if isinstance(error, Refused) or not isinstance(error, KafkaError):
        return error if isinstance(error, Refused) else None
    text = repr(error)  # the class says little: most of them come wrapped in a plain KafkaError
    if "GroupAuthorizationFailed" in text:
        return not_allowed(f"READ on group {identity.get('group')}")
    if "TransactionalIdAuthorizationFailed" in text:
        return not_allowed(f"WRITE on transactional id {identity.get('transactional id')}")
    try:
        if is_reachable() and "AuthorizationFailed" in text:
            with closing(make_admin()) as admin:
                _check_rights(admin)
    except Refused as refused:
        return refused
    except KafkaError:
        pass  # not now to be known; the next error asks again
    return None


def raise_if_refused(error: Exception) -> None:
    """Raise Refused if waiting does not mend this error of a running client."""
    if refused := refusal(error):
        raise refused
