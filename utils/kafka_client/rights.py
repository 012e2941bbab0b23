"""The ACLs that a client needs, and the errors that mean that one is missing.

Rights on topics are checked at the start, all at once: a missing one must not show only with the
first invalid request, or at the end of the first training.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAuthorizationFailedError

from utils.kafka_client.connection import is_reachable, make_admin
from utils.kafka_client.security import Refused
from utils.settings import settings


class Rights:
    """What a client must be authorized to do: READ and WRITE topics, use a group, transactions."""

    def __init__(
        self,
        read: Iterable[str] = (),
        write: Iterable[str] = (),
        group_id: str | None = None,
        transactional_id: str | None = None,
    ) -> None:
        self._group_id, self._transactional_id = group_id, transactional_id
        self._operations: dict[str, set[str]] = defaultdict(set)  # by topic
        for operation, topics in (("READ", read), ("WRITE", write)):
            for topic in topics:
                self._operations[topic].add(operation)

    @property
    def topics(self) -> list[str]:
        """The names of all topics."""
        return list(self._operations)

    def check_topics(self, admin: KafkaAdminClient) -> list[dict]:
        """Return what describe_topics() says; Refused, which names all missing rights on topics."""
        missing, described = [], admin.describe_topics(self.topics)
        for topic in described:
            name, allowed = topic["name"], set(topic["authorized_operations"] or ())
            if allowed or is_forbidden(topic):  # brokers before 2.3 do not report the operations
                lacking = sorted(self._operations[name] - allowed)
                missing += [f"{operation} topic {name}" for operation in lacking]
        if missing:
            raise not_authorized(*missing)
        return described

    def refusal(self, error: Exception) -> Refused | None:
        """Return the reason if retrying does not help against this error of a client, else None."""
        if not isinstance(error, KafkaError):
            return None
        text = repr(error)  # not the class: most errors come wrapped in a plain KafkaError
        if "GroupAuthorizationFailed" in text:
            return not_authorized(f"READ group {self._group_id}")
        if "TransactionalIdAuthorizationFailed" in text:
            return not_authorized(f"WRITE transactional id {self._transactional_id}")
        try:
            if is_reachable() and "AuthorizationFailed" in text:
                with closing(make_admin()) as admin:
                    self.check_topics(admin)
        except Refused as refused:
            return refused
        except KafkaError:
            pass  # unknown for now; the next error asks again
        return None

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise Refused instead of an error of the body if retrying does not help against that."""
        try:
            yield
        except KafkaError as error:
            if refused := self.refusal(error):
                raise refused from None
            raise


def is_forbidden(topic: dict) -> bool:
    """Return True if this description of a topic says that the client may not see the topic."""
    return topic["error_code"] == TopicAuthorizationFailedError.errno


def not_authorized(*rights: str) -> Refused:
    """Return the error that names missing rights, for example "READ topic app_messages"."""
    user = f"KAFKA_USERNAME={settings.kafka_username}" if settings.kafka_username else "This client"
    missing = ", ".join(rights)
    return Refused(f"{user} is not authorized to {missing}; docs/security.md lists the ACLs.")
