"""Registries: a plain dict of name -> module, or object in a module; other distributions add to it by entry points.

What satisfies a registry's protocol may leave out what the protocol has a body or a value for: it is filled in.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import FunctionType, MethodType
from typing import Any

from squeeze_export.errors import BadInput, Refused


def registered(own: Mapping[str, str], kind: str) -> Mapping[str, str]:
    """All entries of a registry: our own, and those of the entry-point group `squeeze_export.<kind>s`.

    Args:
        own: name -> where it is: `package.module` or `package.module:object`. No entry point replaces one.
        kind: `runtime`, `target` ...
    """
    return {entry.name: entry.value for entry in entry_points(group=f"squeeze_export.{kind}s")} | dict(own)


def entry_named(name: str, own: Mapping[str, str], kind: str, protocol: type) -> Any:
    """Looks an entry of a registry up, with its protocol's defaults filled in.

    Args:
        name: of the entry.
        own: name -> where it is; entry points are looked at where `name` is not there.
        kind: `runtime`, `target` ...
        protocol: what it satisfies.

    Raises:
        BadInput: there is no such entry.
        Refused: another distribution's entry cannot be imported, or lacks what has no default.
    """
    if name in own:
        return filled(pkgutil.resolve_name(own[name]), protocol)
    known = registered(own, kind)
    if name not in known:
        raise BadInput(f"no {kind} is called `{name}`", hint=f"one of: {', '.join([*own, *sorted(known.keys() - own.keys())])}")
    try:
        found = pkgutil.resolve_name(known[name])
    except Exception as err:  # a module of others may raise anything
        raise Refused(f"the {kind} `{name}` breaks when it is imported: {type(err).__name__}: {err}") from err
    return filled(found, protocol)


def filled(entry: object, protocol: type) -> Any:
    """A module or object as a protocol has it: what it leaves out comes from the protocol, whose functions are given it as `self`.

    Raises:
        Refused: it lacks what has no default: what is only annotated there, or an `abstractmethod`.
    """
    names = (*protocol.__annotations__, *(name for name, value in vars(protocol).items() if isinstance(value, FunctionType)))
    required = [name for name in names if not name.startswith("_") and not _has_default(protocol, name)]
    missing = [name for name in required if not hasattr(entry, name)]
    if missing:
        named = getattr(entry, "__name__", repr(entry))
        raise Refused(f"`{named}` is no {protocol.__name__.lower()}: it lacks `{missing[0]}`")
    complete = all(hasattr(entry, name) for name in names if not name.startswith("_"))
    return entry if complete else _Filled(entry, protocol)


def _has_default(protocol: type, name: str) -> bool:
    return name in vars(protocol) and not getattr(vars(protocol)[name], "__isabstractmethod__", False)


class _Filled:
    def __init__(self, entry: object, protocol: type) -> None:
        self._entry, self._protocol = entry, protocol

    def __getattr__(self, name: str) -> Any:
        if hasattr(self._entry, name) or not _has_default(self._protocol, name):
            return getattr(self._entry, name)
        value = vars(self._protocol)[name]
        return MethodType(value, self) if isinstance(value, FunctionType) else value
