"""What the store keeps of a request's id: a digest, and which side of the judge it is on."""

import hashlib

KEY_BYTES = 16
JUDGE_ONE_IN = 10  # one row in ten is never trained on: it judges models


def key_of(request_id: str) -> bytes:
    """Return the key of a request id: a BLAKE2b digest of 128 bits.

    With ten million ids, the probability that any two share a key is 1.5e-25.
    """
    return hashlib.blake2b(request_id.encode(), digest_size=KEY_BYTES).digest()


def is_for_judge(name: str) -> bool:
    """Return whether the row with this name (its position, or its request_id) is for the judge.

    A digest of the name decides, so a row is on the same side in every training.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return int.from_bytes(digest) % JUDGE_ONE_IN == 0
