"""Reading NumPy's arrays of objects, which are pickles, without a machine that could run one.

A pickle is a program. Python's ``Unpickler`` runs it, and may call whatever its ``find_class`` lets through; NumPy's
own ``_reconstruct``, ``dtype`` and ``ndarray.__setstate__``, which have to be let through, take what they are given on
trust. So nothing is unpickled here. The few instructions that NumPy writes are carried out by ``_Machine``, for which a
name such as ``numpy.ndarray`` is no more than that name, and arrays are made here, from bytes that are in the file,
once shape, type and size agree. Nothing is imported, called or set on anybody's behalf: an instruction or a name that
is not on the lists below ends the reading.

Limits: an instruction takes at least a byte of the file, and there may be ``_STEPS`` of them, so time, stack, memo and
nesting are bounded; lengths are those of bytes that are there; what is written once and used many times (a "billion
laughs") counts as often as it is used, against ``max_bytes``.
"""

from __future__ import annotations

import io
import math
import pickletools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .checks import DataError

Number = bool | int | float | np.generic
Item = np.ndarray | Number | str | dict[str, "np.ndarray | Number | str"]

_STEPS = 5_000_000  # instructions and values; an array in the list takes about 25 instructions
_DIMENSIONS = 8
_NAMES = {
    **{f"numpy.{core}.multiarray _reconstruct": "_reconstruct" for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": "scalar" for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": "_frombuffer" for core in ("core", "_core")},
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",  # how protocol 2 writes bytes, and no bytes:
    **{f"{module} bytes": "bytes" for module in ("builtins", "__builtin__")},
}
_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_OBJECTS = {"O", "O4", "O8"}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINSTRING", "SHORT_BINSTRING"),  # Python 2's bytes, which come as text in latin-1
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, eq=False)
class Objects:
    """An array of objects, as far as it holds numbers.

    :param shape: its shape, ``()`` for the single object into which ``numpy.savez`` turns a dict.
    :param items: its elements in C order: arrays of real numbers (any shape, native byte order, not writeable),
        numbers, strings, or dicts of such by strings.
    """

    shape: tuple[int, ...]
    items: tuple[Item, ...]


def read_objects(pickled: bytes, where: str, *, max_bytes: int) -> Objects:
    """Read the pickle of an array of objects; nothing in it is run.

    :param pickled: what follows the header in an ``.npy`` file or a member of an ``.npz`` with ``dtype=object``,
        written with protocol 2 to 5, also by Python 2.
    :param where: file and member, for messages.
    :param max_bytes: refuse arrays and texts that have more bytes than this together.
    :raises DataError: naming ``where`` and the refused name, instruction or value, or saying that it is truncated,
        damaged or too large.
    """
    machine = _Machine(max_bytes)
    try:
        return machine.run(pickled)
    except _Refused as refused:
        raise DataError(
            f"{where}: {refused}; it was not read and nothing in it was run. Only arrays of numbers are read from "
            "pickles: have whoever made the file write it again without other objects"
        ) from None
    except Exception as error:  # whatever a hostile or damaged file provokes
        raise DataError(
            f"{where}: is truncated or damaged ({type(error).__name__}: {str(error)[:200]}): copy or download the file "
            "again"
        ) from error


class _Refused(Exception):  # noqa: N818 - it never leaves this file
    """What this file does not read."""


@dataclass(frozen=True)
class _Name:
    name: str


@dataclass
class _Type:
    code: str
    order: str = "="


@dataclass(eq=False)
class _Array:
    """What ``_reconstruct`` stands for, until BUILD says what is in it."""

    content: np.ndarray | _List | None = None


@dataclass(frozen=True, eq=False)
class _List:
    """An array of objects that are not looked at yet."""

    shape: tuple[int, ...]
    items: list[Any]


@dataclass
class _Machine:
    max_bytes: int
    steps: int = 0
    used: int = 0  # bytes
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, pickled: bytes) -> Objects:
        file = io.BytesIO(pickled)
        for opcode, argument, position in pickletools.genops(file):
            self._step()
            self._do(opcode.name, argument, position)
        if file.tell() != len(pickled):
            raise _Refused(f"{len(pickled) - file.tell()} bytes follow its end")
        self.used = 0
        (result,) = self.stack
        return self._objects(result)

    def _step(self) -> None:
        self.steps += 1
        if self.steps > _STEPS:
            raise _Refused(f"has more than {_STEPS} instructions and values")

    def _use(self, size: int) -> None:
        self.used += size
        if self.used > self.max_bytes:
            raise _Refused(f"holds more than {self.max_bytes} bytes, which is max_bytes (raise it if this is right)")

    def _do(self, name: str, argument: Any, position: int) -> None:
        stack, memo = self.stack, self.memo
        if name in _LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]  # a dict: a large number costs nothing
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in _TUPLES:
            size = _TUPLES[name]
            stack.append(tuple(stack.pop() for _ in range(size))[::-1])
        elif name == "TUPLE":
            items = self._since_mark()
            stack.append(tuple(items))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("APPEND", "APPENDS"):
            items = self._since_mark() if name == "APPENDS" else [stack.pop()]
            _expect(stack[-1], list, "a list").extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._since_mark() if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
            if not all(isinstance(key, str) for key in items[::2]):
                raise _Refused("holds a dict with keys that are no strings")
            _expect(stack[-1], dict, "a dict").update(zip(items[::2], items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_named(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_named(f"{_expect(module, str, 'a name')} {_expect(attribute, str, 'a name')}"))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, _expect(arguments, tuple, "arguments")))
        elif name == "BUILD":
            state = _expect(stack.pop(), tuple, "a state")
            self._build(stack[-1], state)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _Refused(f"uses the pickle instruction {name} at byte {position}, which no array of numbers needs")

    def _since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """What calling one of the known names would give."""
        name = function.name if isinstance(function, _Name) else None
        if name == "_reconstruct" and arguments[:1] == (_Name("ndarray"),):
            return _Array()
        if name == "dtype" and arguments and isinstance(arguments[0], str):
            code = arguments[0].lstrip("<>=|")
            if code in _TYPES | _OBJECTS:
                return _Type(code)
            raise _Refused(f"holds values of the type {arguments[0][:40]!r}, which are no real numbers of NumPy's")
        if name == "encode" and len(arguments) == 2 and arguments[1] in ("latin1", "latin-1"):
            text = _expect(arguments[0], str, "a text")
            self._use(len(text))
            return text.encode("latin-1")
        if name == "bytes" and not arguments:
            return b""
        if name == "scalar" and len(arguments) == 2:
            return self._numbers((), arguments[0], False, arguments[1])[()]
        if name == "_frombuffer" and len(arguments) == 4:
            data, dtype, shape, order = arguments
            return _Array(self._numbers(_shape(shape), dtype, order == "F", data))
        called = name or f"a {_kind(function)}"
        raise _Refused(f"calls {called} with {len(arguments)} arguments, not as NumPy does")

    def _build(self, target: Any, state: tuple[Any, ...]) -> None:
        """What ``__setstate__`` would do."""
        if isinstance(target, _Type) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            target.order = state[1]
        elif isinstance(target, _Array) and target.content is None and len(state) == 5:
            _, shape, dtype, fortran, data = state
            shape = _shape(shape)
            if isinstance(dtype, _Type) and dtype.code in _OBJECTS:
                target.content = _List(shape, _expect(data, list, "a list of objects"))
            else:
                target.content = self._numbers(shape, dtype, bool(fortran), data)
        else:
            raise _Refused(f"sets the state of a {_kind(target)}, not as NumPy does")

    def _numbers(self, shape: tuple[int, ...], dtype: Any, fortran: bool, data: Any) -> np.ndarray:
        """An array of bytes that are there."""
        dtype = _expect(dtype, _Type, "a dtype")
        if dtype.code in _OBJECTS:
            raise _Refused("holds objects where numbers are expected")
        order = "=" if dtype.order == "|" else dtype.order
        if isinstance(data, str):  # bytes of Python 2
            self._use(len(data))
            data = data.encode("latin-1")
        if not isinstance(data, bytes | bytearray):
            raise _Refused(f"holds numbers in a {type(data).__name__}, expected bytes")
        kind = np.dtype(order + dtype.code)
        if math.prod(shape) * kind.itemsize != len(data):
            raise _Refused(
                f"declares an array of shape {shape} and type {kind} with {math.prod(shape) * kind.itemsize} bytes, "
                f"and has {len(data)}"
            )
        raw = np.frombuffer(data, np.uint8 if dtype.code == "b1" else kind) if data else np.zeros(0, kind)
        native = np.dtype(bool) if dtype.code == "b1" else kind.newbyteorder("=")
        if raw.dtype != native:
            self._use(raw.nbytes)
            raw = raw.astype(native)
        array = raw.reshape(shape, order="F" if fortran else "C")
        array.flags.writeable = False  # it may be in the file once and in the result many times
        return array

    def _objects(self, result: Any) -> Objects:
        content = result.content if isinstance(result, _Array) else None
        if not isinstance(content, _List):
            raise _Refused("does not hold an array of objects, as its header says")
        count = math.prod(content.shape)
        if count != len(content.items):
            raise _Refused(f"declares {count} objects, of shape {content.shape}, and has {len(content.items)}")
        # NumPy writes the list in C order whatever the order of the array.
        return Objects(content.shape, tuple(self._item(item, inside=False) for item in content.items))

    def _item(self, item: Any, *, inside: bool) -> Any:
        self._step()
        if isinstance(item, _Array) and isinstance(item.content, np.ndarray):
            self._use(item.content.nbytes)
            return item.content
        if isinstance(item, bool | int | float | np.generic):
            return item
        if isinstance(item, str):
            self._use(len(item))
            return item
        if isinstance(item, dict) and not inside:
            return {key: self._item(value, inside=True) for key, value in item.items()}
        what = "an array of objects or without content" if isinstance(item, _Array) else f"a {_kind(item)}"
        raise _Refused(f"holds {what} as an element, expected an array of real numbers")


def _named(name: str) -> _Name:
    if name in _NAMES:
        return _Name(_NAMES[name])
    printable = "".join(c if c.isprintable() else "?" for c in name[:100]).replace(" ", ".")
    raise _Refused(f"is a pickle that asks for {printable}")


def _kind(value: Any) -> str:
    """What a value is, in a word; never the value, which a file can make as long as it likes."""
    return type(value).__name__.lstrip("_").lower()


def _expect(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise _Refused(f"has a {_kind(value)} where {what} belongs")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    shape = _expect(value, tuple, "a shape")
    if len(shape) > _DIMENSIONS or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise _Refused(f"declares an array whose shape is no tuple of up to {_DIMENSIONS} sizes")
    return shape
