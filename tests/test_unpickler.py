"""A model's pickle is read without running it: what models have is read, all else is refused."""

import os
import pickle
import pickletools
import struct
import tracemalloc

import numpy as np
import pytest
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)

from utils.feature_encoder import FeatureEncoder, LinearScaler, fit_encoder
from utils.feature_tools import FeatureTools
from utils.model_store import unpickler
from utils.model_store.unpickler import Unreadable, loads

ROWS = [
    {"age": 20, "size": 1.5, "sex": "Male", "job": "?"},
    {"age": 60, "size": None, "sex": "Female", "job": "Zoë"},
    {"age": 40, "size": 2.5, "sex": "Male", "job": None},
]
COLUMNS = (["age", "size"], ["sex", "job"], [("sex", "job")])


class Calls:
    """Pickled, it is a call of a function."""

    def __init__(self, function, *arguments, state=None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_model_is_read_as_pickle_reads_it(first_model, protocol):
    content = (first_model / "models" / "model_0.p").read_bytes()
    expected = pickle.loads(content)  # noqa: S301
    again = loads(pickle.dumps(expected, protocol))
    assert pickle.dumps(again, 4) == content
    assert vars(again["features"]).keys() == vars(expected["features"]).keys()


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize(
    "scaler", [None, MinMaxScaler(), StandardScaler(), RobustScaler(), MaxAbsScaler()], ids=str
)
def test_scalers_that_work_element_by_element_are_read(scaler, protocol):
    encoder = FeatureTools(*COLUMNS, scaler=scaler).fit(ROWS).encoder_
    again = loads(pickle.dumps(encoder, protocol))
    assert type(again.scaler) is type(encoder.scaler)
    np.testing.assert_array_equal(again.transform(ROWS), encoder.transform(ROWS))


def test_the_names_of_older_numpy_are_known():
    content = pickle.dumps(fit_encoder(ROWS, *COLUMNS), 4)
    older = content.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
    assert older != content
    at = older.index(b"\x95") + 1
    older = older[:at] + struct.pack("<Q", len(older) - at - 8) + older[at + 8 :]
    np.testing.assert_array_equal(
        loads(older).transform(ROWS), fit_encoder(ROWS, *COLUMNS).transform(ROWS)
    )


@pytest.mark.parametrize("shape", [(), (0,), (6,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("kind", ["<f8", ">f8", "<i4", "<f4"])
@pytest.mark.parametrize("protocol", [4, 5])
def test_arrays_come_back(shape, kind, protocol):
    array = np.arange(np.prod(shape, dtype=int)).astype(kind).reshape(shape)
    for each in (array, np.asfortranarray(array)):
        again = loads(pickle.dumps([each, each], protocol))
        np.testing.assert_array_equal(again[0], array)
        assert again[0] is again[1]
        assert again[0].flags.writeable


def test_a_file_from_a_stranger_is_not_run(tmp_path):
    made = tmp_path / "made"
    for protocol in range(6):
        content = pickle.dumps(Calls(os.system, f"touch {made}"), protocol)
        with pytest.raises(Unreadable, match="nothing of it was run"):
            loads(content)
        pickle.loads(content)  # noqa: S301
        assert made.exists()  # as it would have been
        made.unlink()


def with_state(state, kind=LinearScaler) -> bytes:
    return pickle.dumps(Calls(kind.__new__, kind, state=state), 4)


def raw(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


SCALER = named("utils.feature_encoder", "LinearScaler")
FLOAT = named("numpy", "dtype") + text("f8") + b"\x89\x88\x87R"
RECONSTRUCT = named("numpy._core.multiarray", "_reconstruct")
EMPTY = RECONSTRUCT + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"


def array(shape: bytes, content: bytes, kind: bytes = FLOAT) -> bytes:
    state = b"(K\x01" + shape + kind + b"\x89C" + bytes([len(content)]) + content + b"t"
    return EMPTY + state + b"b"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(Calls(eval, "1")), "contains builtins.eval"),
        (pickle.dumps(Calls(getattr, 1, "real")), "getattr"),
        (pickle.dumps(Calls(np.load, "/dev/zero")), "contains numpy.load"),
        (pickle.dumps(np.lib.format.read_array), "contains numpy.lib"),
        (pickle.dumps(PowerTransformer()), "contains sklearn.preprocessing._data.PowerTransformer"),
        # A dotted name reaches what a module imports, in protocol 4 (PEP 3154).
        (raw(named("utils.feature_encoder", "np.load")), "contains utils.feature_encoder.np.load"),
        (
            raw(named("utils.feature_encoder", "FeatureEncoder.__init__")),
            "__init__, which no model",
        ),
        (raw(named("utils.feature_encoder", "reprlib")), "reprlib, which no model has"),
        (raw(named("utils.feature_encoder", "\x1b[2J")), "contains utils.feature_encoder"),
        (raw(b"K\x01K\x02\x93"), "has a int in place of a str"),
        # Constructors and methods of our own are not called either.
        (raw(SCALER, b"N\x85R"), "in place of a Name"),
        (raw(SCALER, b"N\x85\x81"), "in a way that no model needs"),
        (raw(SCALER, b")\x81}", text("transform"), b"Nsb"), "replaces transform"),
        (raw(SCALER, b")\x81}", text("__class__"), b"Nsb"), "replaces __class__"),
        (raw(SCALER, b")\x81N}", text("x"), b"Ns\x86b"), "has a tuple in place of a dict"),
        (raw(b"]}b"), "gives attributes to something that has none"),
        (raw(SCALER, b"}", text("fit"), b"Nsb"), "gives attributes to something"),
        # NumPy's own __setstate__ would take these.
        (pickle.dumps(np.array([{}], dtype=object)), "something else than numbers"),
        (pickle.dumps(np.zeros(2, dtype=[("a", "O")])), "something else than numbers"),
        (raw(array(b"K\x09\x85", b"x" * 8)), "size is not that of its content"),
        (raw(array(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", b"x" * 8)), "size is not that"),
        (raw(array(b"\x8a\x08" + b"\x00" * 7 + b"\x20" + b"K\x08\x86", b"")), "size is not that"),
        (raw(array(b"K\x01\x85", b"x" * 8, named("numpy", "dtype"))), "in place of a Type"),
        (
            raw(array(b"K\x01\x85", b"x" * 16, FLOAT + b"(K\x03" + text("O,") + b"tb")),
            "order of bytes",
        ),
        # Python's hashes of such keys are known, and anybody can find many that are equal.
        (raw(b"}K\x01K\x02\x86Ns"), "has a key that no model needs"),
        (raw(b"}(", text("a"), b"G", bytes(8), b"\x86Nu"), "has a key that no model needs"),
        # Damage, and instructions that no model needs.
        (b"", "is damaged, or no model"),
        (raw(b"C\xffabc"), "ends too early"),
        (raw(b"\x96" + b"\xff" * 8), "ends too early"),
        (raw(b"r\xff\xff\xff\x0f"), "has the instruction LONG_BINPUT"),
        (raw(b"P1\n"), "has the instruction PERSID"),
        (raw(b"\x82\x01"), "has the instruction EXT1"),
        (raw(b"\xff"), "has the byte 0xff"),
        (raw(b"h\x07"), "is damaged, or no model"),
        (raw(b"]]s"), "is damaged, or no model"),
        (raw(b"\x8a\x64" + b"\x01" * 100), "more than 64 bits"),
    ],
)
def test_what_no_model_has_is_refused_in_one_sentence(content, reason):
    with pytest.raises(Unreadable, match=reason.replace("[", r"\[")) as refused:
        loads(content)
    assert len(str(refused.value)) < 200


BIG = b"B" + struct.pack("<I", 8 * 10**6) + bytes(8 * 10**6) + b"\x94"


@pytest.mark.parametrize(
    "content",
    [
        raw(b"N" + b"\x85" * 10**6),  # hash() of a tuple so deep ends the process
        raw(b"N\x94(" + b"h\x00" * 1000 + b"t"),
        raw(b"]" * 10**5 + b"a" * (10**5 - 1), b"K\x00s"),
        raw(SCALER, b"\x94}\x94(", b"".join(text(f"a{i}") + b"N" for i in range(100)), b"u0"),
        raw(SCALER, b")\x81}(", b"".join(text(f"a{i}") + b"N" for i in range(100)), b"ub"),
        # One array of 8 MB, made a thousand times.
        raw(
            BIG, FLOAT, b"\x94(", named("numpy._core.numeric", "_frombuffer"), b"\x94",
            b"(h\x00h\x01", b"J" + struct.pack("<i", 10**6), b"\x85", text("C"), b"t\x94",
            b"h\x02h\x03R" * 1000, b"t",
        ),
    ],
    ids=["deep", "long", "lists", "pop", "attributes", "copies"],
)  # fmt: skip
def test_a_file_that_would_take_all_memory_or_time_is_refused(content):
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable):
            loads(content)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(content)
    finally:
        tracemalloc.stop()


def test_the_number_of_instructions_has_a_limit(monkeypatch):
    monkeypatch.setattr(unpickler, "MAX_INSTRUCTIONS", 1000)
    with pytest.raises(Unreadable, match="has more than 1,000 instructions"):
        loads(raw(b"N" * 2000))


def test_random_damage_is_refused_or_gives_plain_objects(first_model):
    content = (first_model / "models" / "model_0.p").read_bytes()
    head = content[: content.index(b"booster")]
    random = np.random.default_rng(7)
    for _ in range(2_000):
        damaged = bytearray(head + b"booster\x94N" + b"s.")
        for place in random.integers(len(damaged), size=random.integers(1, 4)):
            damaged[place] = random.integers(256)
        try:
            loads(bytes(damaged))
        except Unreadable:
            continue


def test_every_instruction_of_our_own_files_is_known(first_model):
    content = (first_model / "models" / "model_0.p").read_bytes()
    used = {operation.code for operation, _, _ in pickletools.genops(content)} - {"."}
    assert used <= {chr(code) for code in unpickler._INSTRUCTIONS}
    assert isinstance(loads(content)["features"], FeatureEncoder)
