"""What is known of records: where to read on behind one, why another could not be decoded."""

from dataclasses import dataclass
from typing import NamedTuple


class Position(NamedTuple):
    """Where to read on in a partition."""

    offset: int  # of the next record
    leader_epoch: int = -1  # of the last record before it; -1 if unknown
    topic_id: str = ""  # "" if unknown: brokers before 2.8 have none


@dataclass(frozen=True)
class Unreadable:
    """Replaces the value of a record that the client could not decode; says why."""

    reason: str
