"""Reads the pickle of a model without running anything that it contains.

A pickle is a program for a small machine (the standard library's pickletools describes it), and
Python's own machine calls whatever the program names. This one does as PyTorch's for
`weights_only=True` does: it knows the instructions that our models consist of, and no others. What
can come out of it are plain data, NumPy arrays of numbers, and objects of the classes below with
data as their attributes. Nothing is imported or called by a name in the file: no constructor, no
`__setstate__`, neither of ours nor of NumPy, whose own ones trust the sizes and types in a file.
"""

import struct
import sys
from importlib import import_module
from math import prod
from typing import Any

import numpy as np

from utils.feature_encoder import FeatureEncoder, LinearScaler, _Codes, _Crossing
from utils.settings import settings

# Limits of time and memory. A column of 1,000 categories takes 4,000 instructions, a crossed one
# 6,000, and an instruction at most 100 bytes of memory; arrays take no more than the file does.
MAX_INSTRUCTIONS = 2_000 * max(settings.max_categories, 1_000)
MAX_ATTRIBUTES = 50  # of an object
MAX_TUPLE = 64  # elements; and a tuple in a tuple has none: hash() of deep ones ends the process

_OURS = {each.__name__: each for each in (FeatureEncoder, LinearScaler, _Codes, _Crossing)}
# FeatureTools can be given any scaler; these work element by element. They are imported if a file
# has one, as importing scikit-learn takes longer than all else that a predictor does at its start.
_SCALERS = ("MinMaxScaler", "StandardScaler", "RobustScaler", "MaxAbsScaler")
_NUMPY = {
    f"numpy.{core}.{name}": name
    for core in ("core", "_core")  # until NumPy 1.26, from 2.0 on
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
} | {"numpy.dtype": "dtype", "numpy.ndarray": "ndarray"}
_NUMBERS = ("f4", "f8", "i4", "i8")


class Unreadable(ValueError):
    """A file that no model has; the text, after "its file", says why."""


class _Name:
    """What the file has named; it stands on the stack and can't be used but by NEWOBJ or REDUCE."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Type:
    """A number's type in NumPy: its code, and the byte order that follows it in the file."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="


class _Array:
    """An array whose content follows in the file; place : in the memo, where it is remembered."""

    place = -1


def loads(content: bytes) -> Any:
    """Return what a model's pickle contains; Unreadable if it is anything else."""
    machine = _Machine(content)
    try:
        return machine.run()
    except Unreadable:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Unreadable(f"is damaged, or no model ({type(error).__name__})") from None
    except struct.error:
        raise Unreadable("ends too early") from None


class _Machine:
    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0
        self.stack: list = []
        self.below: list[list] = []  # the stacks below each mark
        self.memo: list = []
        self.array_bytes = len(content)  # that arrays may still take

    def run(self) -> Any:
        for _ in range(MAX_INSTRUCTIONS):
            code = self.content[self.position]
            self.position += 1
            if code == 0x2E:  # STOP
                [result] = self.stack
                return result
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise Unreadable(
                    f"has {_opcode(code)}, which no model needs: nothing of it was run"
                )
            instruction(self)
        raise Unreadable(f"has more than {MAX_INSTRUCTIONS:,} instructions (MAX_CATEGORIES)")

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        start, self.position = self.position, self.position + size
        if self.position > len(self.content):
            raise Unreadable("ends too early")
        return self.content[start : self.position]

    def number(self, layout: str) -> Any:
        """Return the next number, of a format of the struct module."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def since_mark(self) -> list:
        """Return what was pushed since the last mark; remove both."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_text(self, layout: str) -> None:
        self.push(str(self.take(self.number(layout)), "utf-8", "surrogatepass"))

    def push_tuple(self, size: int) -> None:
        self.stack[-size:] = [_tuple(self.stack[-size:])]

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def memoize(self) -> None:
        if type(self.stack[-1]) is _Array:
            self.stack[-1].place = len(self.memo)
        self.memo.append(self.stack[-1])

    def append(self, items: list) -> None:
        _as(list, self.stack[-1]).extend(items)

    def set_items(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) is not _Codes:
            _as(dict, target)
        # Hashes of numbers are known: thousands of pairs with one hash would take hours.
        if any(type(key) is tuple and set(map(type, key)) - {str} for key in items[::2]):
            raise Unreadable("has a key that no model needs")
        target.update(zip(items[::2], items[1::2], strict=True))

    def long(self) -> None:
        size = self.number("B")
        if size > 8:
            raise Unreadable("has a number of more than 64 bits")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def name(self) -> None:
        module, name = _as(str, self.stack[-2]), _as(str, self.stack[-1])
        self.stack[-2:] = [_known(module, name)]

    def new_object(self) -> None:
        arguments, kind = _as(tuple, self.stack.pop()), self.stack.pop()
        if arguments or not isinstance(kind, type):
            raise Unreadable("makes an object in a way that no model needs")
        self.stack.append(kind.__new__(kind))

    def reduce(self) -> None:
        arguments, function = _as(tuple, self.stack.pop()), _as(_Name, self.stack.pop()).name
        if function == "dtype" and arguments[0] in _NUMBERS:
            made = _Type(arguments[0])
        elif function == "multiarray._reconstruct":
            made = _Array()
        elif function == "multiarray.scalar":
            made = self.array(arguments[1], arguments[0], (), "C")[()]
        elif function == "numeric._frombuffer":
            made = self.array(*arguments)
        else:
            raise Unreadable("has an array of something else than numbers")
        self.stack.append(made)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is _Type:
            if state[1] not in ("<", ">", "=", "|"):  # NumPy takes more: "O,f8" is a structure
                raise Unreadable("has an unknown order of bytes")
            target.order = state[1]
        elif type(target) is _Array:
            _, shape, kind, is_fortran, content = state
            self.stack[-1] = self.array(content, kind, shape, "F" if is_fortran else "C")
            if target.place >= 0:
                self.memo[target.place] = self.stack[-1]
        else:
            _set_attributes(target, _as(dict, state))

    def array(self, content: bytes, kind: _Type, shape: tuple, order: str) -> np.ndarray:
        """Return an array of its own memory and in this machine's byte order."""
        known = np.dtype(_as(_Type, kind).order + kind.code)
        sizes = [_as(int, size) for size in _as(tuple, shape)]
        if min(sizes, default=0) < 0 or prod(sizes) * known.itemsize != len(_as(bytes, content)):
            raise Unreadable("has an array whose size is not that of its content")
        self.array_bytes -= len(content)
        if self.array_bytes < 0:
            raise Unreadable("has arrays that are larger than itself")
        return np.frombuffer(content, known).astype(kind.code).reshape(sizes, order=order)


def _tuple(items: list) -> tuple:
    inner = [each for each in items if type(each) is tuple]
    if len(items) > MAX_TUPLE or any(type(one) is tuple for each in inner for one in each):
        raise Unreadable("has a tuple that no model needs")
    return tuple(items)


def _as(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        found, expected = (each.__name__.strip("_") for each in (type(value), kind))
        raise Unreadable(f"has a {found} in place of a {expected}")
    return value


def _known(module: str, name: str) -> type | _Name:
    if module == "utils.feature_encoder" and name in _OURS:
        return _OURS[name]
    if module == "sklearn.preprocessing._data" and name in _SCALERS:
        return getattr(import_module(module), name)
    if function := _NUMPY.get(f"{module}.{name}"):
        return _Name(function)
    what = f"{module}.{name}"[:80]
    raise Unreadable(f"contains {what}, which no model has: nothing of it was run")


def _set_attributes(target: Any, state: dict) -> None:
    if type(target) not in _OURS.values() and type(target).__name__ not in _SCALERS:
        raise Unreadable("gives attributes to something that has none")
    if len(state) > MAX_ATTRIBUTES:
        raise Unreadable("has an object with too many attributes")
    if taken := [name for name in state if hasattr(type(target), _as(str, name))]:
        raise Unreadable(f"replaces {taken[0][:80]}, a part of our own code")
    vars(target).update((sys.intern(name), value) for name, value in state.items())


def _opcode(code: int) -> str:
    import pickletools

    names = {ord(each.code): each.name for each in pickletools.opcodes}
    return f"the instruction {names[code]}" if code in names else f"the byte {code:#04x}"


# As pickle.dumps() of protocols 4 and 5 writes them.
_INSTRUCTIONS = {
    ord(code): instruction
    for code, instruction in {
        "\x80": lambda m: m.take(1),  # PROTO
        "\x95": lambda m: m.take(8),  # FRAME
        "\x94": _Machine.memoize,
        "h": lambda m: m.push(m.memo[m.number("B")]),  # BINGET
        "j": lambda m: m.push(m.memo[m.number("<I")]),  # LONG_BINGET
        "(": _Machine.mark,
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "K": lambda m: m.push(m.number("B")),  # BININT1
        "M": lambda m: m.push(m.number("<H")),  # BININT2
        "J": lambda m: m.push(m.number("<i")),  # BININT
        "\x8a": _Machine.long,
        "G": lambda m: m.push(m.number(">d")),  # BINFLOAT
        "\x8c": lambda m: m.push_text("B"),  # SHORT_BINUNICODE
        "X": lambda m: m.push_text("<I"),  # BINUNICODE
        "C": lambda m: m.push(m.take(m.number("B"))),  # SHORT_BINBYTES
        "B": lambda m: m.push(m.take(m.number("<I"))),  # BINBYTES
        "\x96": lambda m: m.push(m.take(m.number("<Q"))),  # BYTEARRAY8
        ")": lambda m: m.push(()),
        "\x85": lambda m: m.push_tuple(1),
        "\x86": lambda m: m.push_tuple(2),
        "\x87": lambda m: m.push_tuple(3),
        "t": lambda m: m.push(_tuple(m.since_mark())),
        "]": lambda m: m.push([]),
        "a": lambda m: m.append([m.stack.pop()]),
        "e": lambda m: m.append(m.since_mark()),
        "}": lambda m: m.push({}),
        "s": lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
        "u": lambda m: m.set_items(m.since_mark()),
        "\x93": _Machine.name,  # STACK_GLOBAL
        "\x81": _Machine.new_object,
        "R": _Machine.reduce,
        "b": _Machine.build,
    }.items()
}
