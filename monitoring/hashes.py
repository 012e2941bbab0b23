"""The hash by which the monitor and its archive know a request_id."""

from functools import lru_cache
from hashlib import blake2b

_LONGEST = 256  # characters of a valid id
_MOST = 20_000  # ids: at most 24 MB; a reply mostly comes soon after its request


def hash_of(request_id: str) -> int:
    """Return 64 bits of BLAKE2b (RFC 7693) of the id, as a signed integer.

    Among five million ids, two have the same hash with a probability of 7e-7.
    """
    return hash_of_valid(request_id) if len(request_id) <= _LONGEST else _hash(request_id)


def _hash(request_id: str) -> int:
    digest = blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


hash_of_valid = lru_cache(_MOST)(_hash)  # of an id that is not too long to be remembered
