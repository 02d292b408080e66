"""What a pickle holds, without unpickling it: nothing is imported, called or built but containers, texts and numbers.

`pickletools.genops` splits the bytes into operations and runs none of them; this module follows them on a stack of its own. A class
stays a name (`Global`), and what a call of it would have made an empty place under that name (`Unbuilt`). The caller may
give meaning to the few calls that it knows.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_OPERATIONS = 2_000_000
"""A training checkpoint of a SqueezeNet has some ten thousand."""


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names: `module.name`."""

    name: str


@dataclass(eq=False)
class Unbuilt:
    """An object that was not built.

    Attributes:
        name: of what would have built it, `module.name`.
        state: what it would have been given afterwards; None if nothing.
    """

    name: str
    state: Any = None


Known = Callable[[str, tuple[Any, ...]], Any]
"""Name and arguments of a call -> its result, or `Unbuilt`."""


def read_pickle(stream: io.BytesIO, known: Known, persistent: Callable[[Any], Any]) -> Any:
    """Reads one pickle, of protocol 0 to 5, from where the stream stands to its end mark.

    Args:
        stream: stays behind the end mark.
        known: gives the results of calls.
        persistent: gives the value of a persistent id.

    Returns:
        dict (keys are text: numbers as they print, anything else as its type's name), list (sets too), tuple, str, bytes,
        int, float, bool, None, `Global`, `Unbuilt`, and what `known` and `persistent` gave.

    Raises:
        ValueError: an operation that no container, text or number needs, or more than `MAX_OPERATIONS` of them.
        LookupError, TypeError, AttributeError: the operations do not fit together.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    def call(function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            return Unbuilt(_name(function))
        container = _CONTAINERS.get(function.name)
        return known(function.name, arguments) if container is None else container(*arguments)

    argument: Any
    for count, (operation, argument, _at) in enumerate(pickletools.genops(stream)):
        if count == MAX_OPERATIONS:
            raise ValueError(f"its pickle has more than {MAX_OPERATIONS} operations")
        name = operation.name
        if name in _PLAIN:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            size = _TUPLES[name]
            if size > len(stack):
                raise IndexError("a tuple of more values than there are")
            stack[-size:] = [tuple(stack[-size:])]
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            values = since_mark()
            stack.append(tuple(values) if name == "TUPLE" else values)
        elif name == "DICT":
            stack.append(_dict_of(since_mark()))
        elif name == "APPEND":
            value = stack.pop()
            _extend(stack[-1], [value])
        elif name in ("APPENDS", "ADDITEMS"):
            values = since_mark()
            _extend(stack[-1], values)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _fill(stack[-1], [key, value])
        elif name == "SETITEMS":
            values = since_mark()
            _fill(stack[-1], values)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(Global(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(Global(f"{module}.{attribute}" if isinstance(module, str) and isinstance(attribute, str) else "?"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(call(function, arguments))
        elif name == "NEWOBJ_EX":
            del stack[-2:]
            stack.append(Unbuilt(_name(stack.pop())))
        elif name == "OBJ":
            function, *arguments = since_mark()
            stack.append(call(function, tuple(arguments)))
        elif name == "INST":
            stack.append(call(Global(argument.replace(" ", ".")), tuple(since_mark())))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Unbuilt):
                stack[-1].state = state
        elif name == "BINPERSID":
            stack.append(persistent(stack.pop()))
        elif name == "PERSID":
            stack.append(persistent(argument))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"its pickle has the operation `{name}`, which no state dict needs")
    raise ValueError("its pickle has no end mark")


def _ordered(pairs: Any = ()) -> dict[str, Any]:
    return _dict_of([value for pair in pairs for value in _pair(pair)])


def _dict_of(values: list[Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    _fill(made, values)
    return made


def _defaulted(_factory: Any = None, pairs: Any = ()) -> dict[str, Any]:
    return _ordered(pairs)


def _listed(values: Any = ()) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else []


_CONTAINERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _defaulted,
    "collections.Counter": lambda counts=None: counts if isinstance(counts, dict) else {},
    **{f"{module}.{kind}": _listed for module in ("builtins", "__builtin__") for kind in ("set", "frozenset", "list")},
    **{f"{module}.dict": _ordered for module in ("builtins", "__builtin__")},
}
_PLAIN = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _pair(pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise TypeError("a dict of something else than pairs")
    return pair[0], pair[1]


def _fill(target: Any, values: list[Any]) -> None:
    """Sets keys and values, which alternate. An object that was not built keeps nothing."""
    if not isinstance(target, Unbuilt):
        if not isinstance(target, dict):
            raise TypeError("items of something else than a dict")
        target.update(zip(map(_key, values[::2]), values[1::2], strict=True))


def _key(key: Any) -> str:
    """Text only: the hashes of numbers can be made to collide, and then a dict takes quadratic time."""
    return key if isinstance(key, str) else str(key) if key is None or isinstance(key, int | float) else type(key).__name__


def _extend(target: Any, values: list[Any]) -> None:
    if not isinstance(target, Unbuilt):
        if not isinstance(target, list):
            raise TypeError("items of something else than a list")
        target.extend(values)


def _name(value: Any) -> str:
    return value.name if isinstance(value, Global | Unbuilt) else type(value).__name__
