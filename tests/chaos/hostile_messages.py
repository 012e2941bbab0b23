"""Messages that no working program sends: a list made by hand, and random mutations."""

import json
import random
from collections.abc import Iterator

VALID = {
    "age": 52,
    "workclass": "Private",
    "fnlwgt": 209642,
    "education": "HS-grad",
    "marital_status": "Married-civ-spouse",
    "occupation": "Exec-managerial",
    "relationship": "Husband",
    "race": "White",
    "gender": "Male",
    "capital_gain": 0,
    "capital_loss": 0,
    "hours_per_week": 45,
    "native_country": "United-States",
}


NUMERIC = {name for name, value in VALID.items() if isinstance(value, int)}


class UnreadableName(str):
    """A header's name that is encoded as bytes that are not UTF-8."""

    def encode(self, *_: object) -> bytes:
        """Return bytes that no client can decode."""
        return b"\xff\xfe"


def request(request_id: object = "id", **changes: object) -> bytes:
    """Return a valid request as JSON, except for the request_id and the fields that are given."""
    return json.dumps({"request_id": request_id, "data": VALID | changes}).encode()


def _raw(name: str, text: str) -> bytes:
    """Return a request in which one value is this text, valid JSON or not."""
    return request(**{name: "@"}).replace(b'"@"', text.encode())


HOSTILE: list[bytes | None] = [
    None,  # a tombstone
    b"",
    b"\x00",
    b"\xff\xfe\xfd",
    b" \n\t",
    b"null",
    b"true",
    b"1",
    b'"text"',
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"request_id": "deep", "data": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    b"{",
    b"{}{}",
    b"{'request_id': 'quotes'}",
    b'{"request_id": "id"}',
    b'{"data": null}',
    b'{"request_id": "id", "data": []}',
    b'{"request_id": "id", "data": {}}',
    b'{"request_id": "id", "data": "age"}',
    b'{"request_id": "id", "data": null, "prediction": 1.0}',
    b'{"request_id": "id", "data": {}, "error": "both"}',
    b'\xef\xbb\xbf{"request_id": "id"}',  # a byte order mark
    '{"request_id": "id"}'.encode("utf-16"),
    b'{"request_id": "\xff", "data": {}}',
    b'{"request_id": "\\ud800", "data": {}}',  # a lone surrogate
    request(None),
    request(""),
    request("x" * 257),
    request("x" * 900_000),
    request(7),
    request(["id"]),
    request({"id": 1}),
    request(True),
    json.dumps({"data": VALID}).encode(),
    request(age="old"),
    request(age=True),
    request(age=[1]),
    request(age={"a": 1}),
    request(age="1"),
    request(gender=1),
    request(gender=["Male"]),
    request(gender=False),
    request(gender="x" * 257),
    request(occupation="x" * 880_000),
    request(income_bracket="rich"),
    request(income_bracket=1),
    request(income_bracket=""),
    _raw("age", "NaN"),
    _raw("age", "Infinity"),
    _raw("age", "-Infinity"),
    _raw("age", "1e400"),
    _raw("age", "-1e40"),
    _raw("age", "1" * 5_000),
    _raw("age", "0x10"),
    _raw("age", "01"),
    _raw("age", ".5"),
    _raw("age", "1_000"),
    request().replace(b'"age": 52', b'"age": 52, "age": "twice"'),
    *(
        json.dumps({"request_id": "id", "data": {k: v for k, v in VALID.items() if k != name}})
        .encode()
        for name in VALID
    ),
]  # fmt: skip


def mutations(chance: random.Random, row: dict, number: int) -> Iterator[bytes]:
    """Yield random messages: random bytes, damaged requests, requests with a wrong value.

    None of them can be a valid request, or a reply.
    """
    for n in range(number):
        yield (_noise, _damaged, _mistaken)[n % 3](chance, row, n)


def _noise(chance: random.Random, row: dict, n: int) -> bytes:
    return chance.randbytes(chance.randrange(1, 2_000))


def _damaged(chance: random.Random, row: dict, n: int) -> bytes:
    text = bytearray(json.dumps({"request_id": f"damaged-{n}", "data": row}).encode())
    for _ in range(chance.randrange(1, 20)):
        text[chance.randrange(len(text))] = chance.randrange(256)
    # The other changes may leave it valid; a byte that is never valid in UTF-8 does not.
    text[chance.randrange(len(text))] = 0xFF
    return bytes(text)


def _mistaken(chance: random.Random, row: dict, n: int) -> bytes:
    name = chance.choice(list(VALID))
    values = [True, [], {"a": name}, 1e300, f"{n}"] if name in NUMERIC else [7, False, [name], {}]
    return json.dumps(
        {"request_id": f"mistaken-{n}", "data": row | {name: chance.choice(values)}}
    ).encode()
