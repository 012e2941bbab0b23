"""What a consumer returns in place of a value that it could not decode."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unreadable:
    """Replaces the value of a record that the client could not decode; says why."""

    reason: str
