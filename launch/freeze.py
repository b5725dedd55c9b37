"""Values of the project as bytes and back: plain ones, arrays, and instances of its own classes. Reading runs no code.

A frozen value is a msgpack array of nodes, each of which may refer to those before it by their number; the last is the
value itself. What two places share is one node and is shared again when thawed. An instance is made without calling
its class: only its attributes are set.
"""

from __future__ import annotations

import importlib
from typing import Any

import msgpack
import numpy as np

_PLAIN = (type(None), bool, int, float, str, bytes)


class FreezeError(ValueError):
    """A value that cannot be frozen, or bytes that are no frozen value of this version of the program."""


def freeze(value: Any, rooms: tuple[str, ...]) -> bytes:
    """rooms: packages, with a dot behind each, whose classes may occur. Raises FreezeError for anything else."""
    return msgpack.packb(_Freezer(rooms).nodes_of(value))


def thaw(data: bytes, rooms: tuple[str, ...]) -> Any:
    """What ``freeze`` froze. Raises FreezeError for any other bytes."""
    try:
        nodes = msgpack.unpackb(data, strict_map_key=False)
        done: list[Any] = []
        for kind, *content in nodes:
            done.append(_thawed(kind, content, done, rooms))
        return done[-1]
    except FreezeError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, AttributeError) as error:
        raise FreezeError(f"not a frozen value ({' '.join(str(error).split())})") from None
    except (ImportError, msgpack.exceptions.UnpackException) as error:
        raise FreezeError(f"not a frozen value of this version ({str(error)!a})") from None


class _Freezer:
    def __init__(self, rooms: tuple[str, ...]):
        self._rooms = rooms
        self._nodes: list[list[Any]] = []
        self._known: dict[int, int] = {}
        self._kept: list[Any] = []  # keeps what is known alive, so that no other takes its id
        self._under_way: set[int] = set()

    def nodes_of(self, value: Any) -> list[list[Any]]:
        """Every node that the value needs, the value last."""
        last = self._node(value)
        if last != len(self._nodes) - 1:
            self._nodes.append(["same", last])
        return self._nodes

    def _node(self, value: Any) -> int:
        shared = not isinstance(value, _PLAIN)
        if shared and id(value) in self._known:
            return self._known[id(value)]
        if id(value) in self._under_way:
            raise FreezeError(f"a {type(value).__name__} that contains itself")
        self._under_way.add(id(value))
        node = self._content(value)
        self._under_way.discard(id(value))
        self._nodes.append(node)
        if shared:
            self._known[id(value)] = len(self._nodes) - 1
            self._kept.append(value)
        return len(self._nodes) - 1

    def _content(self, value: Any) -> list[Any]:
        cls = type(value)
        if cls in _PLAIN:
            return ["plain", value]
        if cls in (list, tuple, set):
            return [cls.__name__, *map(self._node, value)]
        if cls is dict:
            return ["dict", *([self._node(key), self._node(inner)] for key, inner in value.items())]
        if cls is np.ndarray and not value.dtype.hasobject and value.dtype.names is None:
            order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
            return ["array", value.dtype.str, list(value.shape), order, value.tobytes(order)]
        if isinstance(value, np.generic) and not value.dtype.hasobject and value.dtype.names is None:
            return ["number", value.dtype.str, value.tobytes()]
        if cls.__module__.startswith(self._rooms) and not isinstance(value, (*_PLAIN, tuple, list, dict, set, type)):
            return ["object", cls.__module__, cls.__qualname__, self._node(_attributes(value))]
        raise FreezeError(f"a {cls.__module__}.{cls.__qualname__} cannot be frozen")


def _attributes(value: Any) -> dict[str, Any]:
    names = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ()) if hasattr(value, name)]
    return {**{name: getattr(value, name) for name in names}, **getattr(value, "__dict__", {})}


def _thawed(kind: Any, content: list[Any], done: list[Any], rooms: tuple[str, ...]) -> Any:
    match kind, content:
        case "plain", [value] if isinstance(value, _PLAIN):
            return value
        case "same", [number]:
            return _at(done, number)
        case "list", numbers:
            return [_at(done, number) for number in numbers]
        case "tuple", numbers:
            return tuple(_at(done, number) for number in numbers)
        case "set", numbers:
            return {_at(done, number) for number in numbers}
        case "dict", pairs:
            return {_at(done, key): _at(done, value) for key, value in pairs}
        case "array", [dtype, shape, order, data]:
            return np.frombuffer(data, _dtype(dtype)).reshape(shape, order=order).copy(order)
        case "number", [dtype, data]:
            return np.frombuffer(data, _dtype(dtype))[0]
        case "object", [module, name, attributes]:
            return _instance(module, name, _at(done, attributes), rooms)
    raise FreezeError("not a frozen value")


def _at(done: list[Any], number: Any) -> Any:
    if type(number) is not int or not 0 <= number < len(done):
        raise FreezeError("a node refers to one that is not before it")
    return done[number]


def _dtype(text: str) -> np.dtype:
    dtype = np.dtype(text)
    if dtype.hasobject or dtype.names is not None:
        raise FreezeError(f"an array of {text!a}")
    return dtype


def _instance(module: str, name: str, attributes: dict[str, Any], rooms: tuple[str, ...]) -> Any:
    if not module.startswith(rooms) or not name.isidentifier():
        raise FreezeError(f"{module!a} {name!a} is none of ours")
    cls = getattr(importlib.import_module(module), name)
    if not isinstance(cls, type) or cls.__module__ != module:
        raise FreezeError(f"{module}.{name} is no class of that module")
    made: Any = object.__new__(cls)
    for key, value in attributes.items():
        object.__setattr__(made, key, value)
    return made
