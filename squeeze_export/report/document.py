"""The report as JSON: the truth that every other form is written from.

The document's shape is the dataclasses' own (`results.Report`), field by field, so there is no second description to keep in step.
It is strict JSON: infinity and NaN are the strings `inf`, `-inf`, `nan`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from squeeze_export.errors import BadInput
from squeeze_export.files import write_text
from squeeze_export.results import Report

SCHEMA_VERSION = 5
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda document: document,  # 2 added `measurements[].recipe` and `differences`, which may be missing
    2: lambda document: document,  # 3 added `measurements[].checkpoint_sha256` and `verdicts`, which may be missing
    3: lambda document: document,  # 4 added `measurements[].audit.kept_float`, which may be missing
    4: lambda document: document,  # 5 added `estimate` and `facts` of measurements, and to placements where operators ran
}
"""Version -> what turns a document of that version into one of the next. A change of `results.Report` adds one, and its test."""

_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def to_json(report: Report) -> dict[str, Any]:
    """The report as dicts, lists, strings, numbers, booleans and None. Numpy scalars become plain ones, tuples become lists.

    Raises:
        TypeError: a free field (`host`, `network` ...) holds what JSON has no form for; the field is named.
    """
    document: dict[str, Any] = _plain(report, "report")
    return document


def _plain(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name), f"{where}.{field.name}") for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        return _plain(value.item(), where)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{where} holds a {type(value).__name__}, which JSON has no form for")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where} has the key {key!r}, which is no string")
    return key


def from_json(document: Any) -> Report:
    """A report from its JSON form, of this version or an older one.

    Raises:
        BadInput: a newer version, or a field that is missing, unknown or of a wrong kind; the field is named.
    """
    if not isinstance(document, dict):
        raise BadInput(f"a report is a JSON object, not `{_kind(document)}`")
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise BadInput("`schema_version` is missing or no integer: this is no report of squeeze-export")
    if version > SCHEMA_VERSION:
        raise BadInput(
            f"the report has schema version `{version}`, this program knows up to {SCHEMA_VERSION}",
            hint="pip install --upgrade squeeze-export",
        )
    while version < SCHEMA_VERSION:
        if version not in MIGRATIONS:
            raise BadInput(f"the report has schema version `{version}`, which no release has written")
        document = {**MIGRATIONS[version](document), "schema_version": version + 1}
        version += 1
    report: Report = _read(Report, document, "")
    return report


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as the type annotation `kind` says; `where` is its path in the document."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):  # X | None is the only union of the report's types
        return None if value is None else _read(next(part for part in arguments if part is not type(None)), value, where)
    if origin is Literal:
        _expect(isinstance(value, str) and value in arguments, " or ".join(arguments), value, where)
        return value
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, where)
        return tuple(_read(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is Mapping:
        _expect(isinstance(value, dict), "an object", value, where)
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, where)
    if kind is float:
        if isinstance(value, str) and value in _NOT_FINITE:
            return _NOT_FINITE[value]
        _expect(isinstance(value, int | float) and not isinstance(value, bool), "a number", value, where)
        _expect(isinstance(value, float) or abs(value) < 1e300, "a number of this size", value, where)
        return float(value)
    _expect(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), _WORDS[kind], value, where)
    return value


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    prefix = f"{where}." if where else ""
    _expect(isinstance(value, dict), "an object", value, where)
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise BadInput(f"the report has an unknown field `{prefix}{unknown[0]}`")
    known = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            known[field.name] = _read(hints[field.name], value[field.name], f"{prefix}{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise BadInput(f"the report lacks the field `{prefix}{field.name}`")
    return kind(**known)


_WORDS = {str: "a string", int: "an integer", bool: "true or false"}


def _expect(fits: bool, wanted: str, value: Any, where: str) -> None:
    if not fits:
        raise BadInput(f"the report's field `{where}` is {_kind(value)}, not {wanted}")


def _kind(value: Any) -> str:
    """A value as an error message shows it: short ones themselves, long ones by their kind."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else f"{shown[:36]}..."


def write_json(report: Report, path: Path) -> None:
    """Writes `report.json`, whole or not at all.

    Raises:
        BadInput: the file cannot be written.
        TypeError: as `to_json`.
    """
    write_text(path, json.dumps(to_json(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Report:
    """Reads what `write_json` wrote, of this version or an older one.

    Raises:
        BadInput: the file cannot be read, is no strict JSON, or no report.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as err:
        raise BadInput(f"cannot read `{path}`: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise BadInput(f"`{path}` is no JSON: {err}") from err
    return from_json(document)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
