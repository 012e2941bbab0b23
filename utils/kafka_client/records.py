"""What a consumer may return in place of a value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unreadable:
    """Stands where the value of a record should be that the client could not unpack."""

    reason: str
