"""The rows of the monitor's two tables, and what tells a row from damaged bytes."""

import math
import struct

import numpy as np

from monitoring.figures.decoding import UNKNOWN
from utils.datasets import dataset

OUTPUTS = dataset.target.outputs
MOST_OF_ONE_ID = 20  # requests and answers of one id that are known one by one

# A row of `waiting` is the number of further requests, then the known ones: time, offset, outcome.
FURTHER, ASKED = struct.Struct("<q"), struct.Struct("<qqd")
ONE_ASKED = struct.Struct("<qqqd")  # a row with one request
NO_FURTHER = FURTHER.pack(0)
# A row of `known` is the outcome, its rank and its time, then the answers: model, time, partition
# and offset of the request, and the scores.
LEARNT, ANSWERED = struct.Struct("<dqq"), struct.Struct(f"<qqiq{OUTPUTS}d")
NOTHING_LEARNT = LEARNT.pack(UNKNOWN, -(2**63), 0)
WAITING_ROW = np.dtype(  # with one request, as ONE_ASKED
    [("further", "<i8"), ("time", "<i8"), ("offset", "<i8"), ("outcome", "<f8")]
)
_MOST = 2**53  # no time, offset or model id is that large
_LOWEST = -math.inf if dataset.target.kind == "number" else 0  # outcome or score
_HIGHEST = math.inf if dataset.target.kind == "number" else max(len(dataset.target.labels) - 1, 1)
ANSWER = np.dtype(
    [
        ("model_id", "<i8"),
        ("time", "<i8"),  # of the request, ms
        ("partition", "<i4"),
        ("offset", "<i8"),  # of the request; -1 if it is not known
        ("scores", "<f8", (OUTPUTS,)),
    ]
)
KNOWN_ROW = np.dtype(  # with one answer, as LEARNT and ANSWERED
    [("outcome", "<f8"), ("rank", "<i8"), ("time", "<i8"), ("answer", ANSWER)]
)


def is_waiting(row: bytes) -> bool:
    """Return whether bytes of the file are what a row of `waiting` can be."""
    if not _has_size(row, FURTHER, ASKED):
        return False
    requests = ASKED.iter_unpack(row[FURTHER.size :])
    return 0 <= FURTHER.unpack_from(row)[0] < _MOST and all(
        _are_numbers(*place) and _is_outcome(outcome) for *place, outcome in requests
    )


def has_one_request(row: bytes) -> bool:
    """Return whether a row of `waiting` has one request, which is known: the usual one."""
    return len(row) == ONE_ASKED.size and row.startswith(NO_FURTHER)


def is_known(row: bytes) -> bool:
    """Return whether bytes of the file are what a row of `known` can be."""
    if not _has_size(row, LEARNT, ANSWERED):
        return False
    outcome, _, time = LEARNT.unpack_from(row)
    answers = ANSWERED.iter_unpack(row[LEARNT.size :])
    return (
        _is_outcome(outcome)
        and _are_numbers(time)
        and all(_are_numbers(*one[:4]) and all(map(_is_score, one[4:])) for one in answers)
    )


def _has_size(row: bytes, head: struct.Struct, each: struct.Struct) -> bool:
    number, rest = divmod(len(row) - head.size, each.size)
    return 0 <= number <= MOST_OF_ONE_ID and not rest


def _are_numbers(*found: int) -> bool:
    return all(-1 <= each < _MOST for each in found)


def _is_outcome(value: float) -> bool:
    return value != value or _is_score(value)


def _is_score(value: float) -> bool:
    return _LOWEST <= value <= _HIGHEST and math.isfinite(value)


def oldest_request(row: bytes) -> float:
    """Return the time of the oldest request in a row of `waiting`, ms; infinity if not known."""
    return ASKED.unpack_from(row, FURTHER.size)[0] if len(row) > FURTHER.size else math.inf


def lacks_a_part(row: bytes) -> bool:
    """Return whether a row of `known` has no outcome, or no answer."""
    return len(row) == LEARNT.size or row[:8] == NOTHING_LEARNT[:8]
