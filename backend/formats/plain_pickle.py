"""Reads a pickle's value without running anything in it.

A pickle is a program; Python's own machine for it calls whatever it names. The machine here knows no calls: it walks
the instructions and puts together what `torch.save` writes of tensors, dicts, lists, numbers and strings. Names of
functions and classes are marks of what is meant and are never looked up; any but a few known ones, and any instruction
that `torch.save` has no need of, stop it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_MAPPINGS = {("collections", "OrderedDict"), ("easydict", "EasyDict"), ("builtins", "dict"), ("__builtin__", "dict")}
_TENSORS = {
    ("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
}  # fmt: skip


class Refused(Exception):
    """A pickle holds something that is neither a tensor nor a plain value; the text says what."""


@dataclass(frozen=True)
class _Name:
    """Of a function or a class."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _Mark:
    """The beginning of a group on the stack."""


@dataclass
class Storage:
    """The numbers of tensors: `count` of them, under `key`. data: their bytes, once they were found."""

    key: str
    dtype: torch.dtype
    count: int
    data: memoryview | None = None


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file. `load` gives it without a copy where its bytes lie as the processor wants them."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        if not self.storage.data or not self.storage.count:
            return torch.empty(self.shape, dtype=self.storage.dtype)
        flat = torch.frombuffer(self.storage.data, dtype=self.storage.dtype, count=self.storage.count)
        if flat.data_ptr() % flat.itemsize:
            flat = torch.frombuffer(bytearray(self.storage.data), dtype=self.storage.dtype, count=self.storage.count)
        return flat.as_strided(self.shape, self.stride, self.offset)


class PickleReader:
    """One pickle's value: dicts (EasyDicts too), lists, tuples, numbers, strings, None and `StoredTensor`s."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def read(self) -> Any:
        """Walk to the pickle's end. Raises Refused, and ValueError, KeyError or IndexError for what is no pickle."""
        for instruction, argument, _ in pickletools.genops(self._stream):
            name = instruction.name
            if name == "STOP":
                result = self._stack.pop()
                self._require(not self._stack and not isinstance(result, _Name | _Mark | Storage), result)
                return result
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in _LITERALS:
                self._stack.append(argument)
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise Refused(f"the instruction {name}")
        raise ValueError("a pickle without an end")

    @staticmethod
    def _require(condition: bool, what: Any) -> None:
        if not condition:
            raise Refused(str(what) if isinstance(what, _Name) else f"a value of the type {type(what).__name__}")

    def _group(self) -> list[Any]:
        """What lies on the stack since the last mark; the mark goes too."""
        for index in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[index], _Mark):
                group = self._stack[index + 1 :]
                del self._stack[index:]
                return group
        raise ValueError("a group without a beginning")

    # -- instructions -------------------------------------------------------------------------------------------------

    def put(self, index: int | None) -> None:
        self._require(not isinstance(self._stack[-1], _Mark), self._stack[-1])
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def last_as_tuple(self, count: int) -> None:
        values = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def append(self, values: list[Any]) -> None:
        self._require(type(self._stack[-1]) is list, self._stack[-1])
        for value in values:
            self._require(not isinstance(value, _Name | _Mark), value)
        self._stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        self._require(type(target) is dict, target)
        if len(values) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self._require(isinstance(key, str | int | float), key)
            self._require(not isinstance(value, _Name | _Mark), value)
            target[key] = value

    def name(self, module: Any, name: Any) -> None:
        self._require(isinstance(module, str) and isinstance(name, str), name)
        known = module == "torch" and (name in STORAGES or name == "Size")
        self._require(known or (module, name) in _MAPPINGS | _TENSORS, _Name(module, name))
        self._stack.append(_Name(module, name))

    def storage(self) -> None:
        """A tensor's numbers: ("storage", kind, key, device, count, a view of another one in the oldest files)."""
        reference = self._stack.pop()
        self._require(isinstance(reference, tuple) and len(reference) in (5, 6), reference)
        word, kind, key, _, count = reference[:5]
        self._require(word == "storage" and isinstance(kind, _Name) and kind.name in STORAGES, kind)
        if not (isinstance(key, str) and type(count) is int and count >= 0 and reference[5:] in ((), (None,))):
            raise Refused("a storage within a storage")
        fresh = Storage(key, STORAGES[kind.name], count)
        known = self.storages.setdefault(key, fresh)
        if (known.dtype, known.count) != (fresh.dtype, fresh.count):
            raise ValueError("one storage with two sizes")
        self._stack.append(known)

    def reduce(self) -> None:
        """Where Python would make a call: dicts, sizes and tensors are put together, and nothing else is."""
        arguments, function = self._stack.pop(), self._stack.pop()
        self._require(isinstance(function, _Name) and isinstance(arguments, tuple), function)
        if (function.module, function.name) in _MAPPINGS:
            self._stack.append(_mapping(arguments))
        elif function == _Name("torch", "Size"):
            self._require(len(arguments) == 1 and isinstance(arguments[0], list | tuple), function)
            self._stack.append(tuple(arguments[0]))
        elif function.name == "_rebuild_parameter":
            self._require(len(arguments) >= 1 and isinstance(arguments[0], StoredTensor), function)
            self._stack.append(arguments[0])
        else:
            self._require((function.module, function.name) in _TENSORS, function)
            self._stack.append(_tensor(arguments))

    def build(self) -> None:
        """Attributes: an OrderedDict's hold nothing of worth, an EasyDict's are its items once more."""
        self._stack.pop()
        self._require(type(self._stack[-1]) is dict, self._stack[-1])


def _mapping(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """An empty dict, or one of another dict's items or of pairs."""
    if not arguments:
        return {}
    given = arguments[0]
    pairs = list(given.items()) if type(given) is dict else given
    if len(arguments) > 1 or not isinstance(pairs, list | tuple):
        raise Refused("a dict of something else")
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str | int) for pair in pairs):
        raise Refused("a dict of something else")
    return dict(pairs)


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    """(storage, offset, shape, strides, ...) of a dense tensor, which has to lie within its storage."""
    if len(arguments) < 4 or not isinstance(arguments[0], Storage):
        raise Refused("a tensor of a kind that is not known")
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(shape) != len(stride):
        raise ValueError("a tensor without a shape")
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *stride)):
        raise ValueError("a tensor without a shape")
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    if all(shape) and last >= storage.count:
        raise ValueError("a tensor larger than its storage")
    return StoredTensor(storage, offset, shape, stride)


_Action = Callable[[PickleReader, Any], None]
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict, "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple, "MARK": _Mark,
}  # fmt: skip
_LITERALS = {
    "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_PUT: _Action = lambda machine, index: machine.put(index)  # noqa: E731
_GET: _Action = lambda machine, index: machine.get(index)  # noqa: E731
_REDUCE: _Action = lambda machine, _: machine.reduce()  # noqa: E731
_ACTIONS: dict[str, _Action] = {
    "PUT": _PUT, "BINPUT": _PUT, "LONG_BINPUT": _PUT, "MEMOIZE": _PUT, "GET": _GET, "BINGET": _GET, "LONG_BINGET": _GET,
    "REDUCE": _REDUCE, "NEWOBJ": _REDUCE,
    "TUPLE": lambda machine, _: machine._stack.append(tuple(machine._group())),
    "TUPLE1": lambda machine, _: machine.last_as_tuple(1),
    "TUPLE2": lambda machine, _: machine.last_as_tuple(2),
    "TUPLE3": lambda machine, _: machine.last_as_tuple(3),
    "APPEND": lambda machine, _: machine.append([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine._group()),
    "SETITEM": lambda machine, _: machine.set_items([machine._stack.pop(-2), machine._stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine._group()),
    "GLOBAL": lambda machine, both: machine.name(*both.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(machine._stack.pop(-2), machine._stack.pop()),
    "BINPERSID": lambda machine, _: machine.storage(),
    "BUILD": lambda machine, _: machine.build(),
}  # fmt: skip
