"""Messages on their way into blocks: as columns, in parts of the right size."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from kafka.consumer.fetcher import ConsumerRecord

from monitoring.figures.decoding import Event

BLOCK = 4_000  # messages
BLOCK_BYTES = 2**22


class Run(NamedTuple):
    """Successive messages of a partition, as columns: a tuple for each would cost much more."""

    topic: str
    partition: int
    offsets: list[int]
    times: list[int]
    values: list[bytes | None]
    events: list[Event | None]  # what each one is (decoding.py), None if that is not known

    def part(self, first: int, end: int) -> "Run":
        """Return some of them."""
        return Run(*self[:2], *(column[first:end] for column in self[2:]))


def run_of(
    topic: str,
    partition: int,
    records: list[ConsumerRecord],
    begin: int,
    events: list[Event] | None,
) -> Run:
    """Return the records from the offset `begin` on."""
    offsets = [record.offset for record in records]
    values = [record.value for record in records]
    return Run(
        topic,
        partition,
        offsets,
        [_within_64_bits(record.timestamp) for record in records],
        [value if type(value) is bytes else None for value in values],
        events or [None] * len(offsets),
    ).part(bisect_left(offsets, begin), len(offsets))


def _within_64_bits(timestamp: int) -> int:
    """Return a timestamp that can be written: a sender can make any number of it."""
    return timestamp if -(2**63) <= timestamp < 2**63 else 2**63 - 1


def parts(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """Yield the messages in equal parts of BLOCK messages, up to a half more, or of BLOCK_BYTES."""
    runs = [*runs]
    total = sum(len(run.offsets) for run in runs)
    most = math.ceil(total / max(round(total / BLOCK), 1))
    part, number, size = [], 0, 0
    for run in runs:
        ends, first = [*accumulate(len(value or b"") for value in run.values)], 0
        while first < len(ends):
            before = ends[first - 1] if first else 0
            is_full = bisect_left(ends, BLOCK_BYTES - size + before) + 1
            end = min(first + most - number, is_full, len(ends))
            part.append(run.part(first, end))
            number, size = number + end - first, size + ends[end - 1] - before
            if number == most or size >= BLOCK_BYTES:
                yield part
                part, number, size = [], 0, 0
            first = end
    if part:
        yield part
