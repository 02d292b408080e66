"""JSON documents of ours: frozen dataclasses written as strict JSON, and read back against their own annotations.

So nothing else describes the shape of a document, and a document from elsewhere is typed before anybody uses it. JSON has no
infinity and no NaN: they are the strings `inf`, `-inf`, `nan`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from squeeze_export.errors import BadInput
from squeeze_export.files import read_bounded, write_text

T = TypeVar("T")
Migration = Callable[[dict[str, Any]], dict[str, Any]]

MAX_BYTES = 500_000_000


def nothing_new(document: dict[str, Any]) -> dict[str, Any]:
    """The migration to a version whose new fields may be missing."""
    return document


@dataclass(frozen=True)
class Schema(Generic[T]):
    """A kind of document that files hold, with its versions.

    Attributes:
        kind: the dataclass; its first field is `schema_version`.
        name: what users call it: `report`.
        version: that is written.
        migrations: version -> function that makes the next version's document. A change of `kind` adds one, and its test.
    """

    kind: type[T]
    name: str
    version: int
    migrations: Mapping[int, Migration]

    def from_json(self, document: Any) -> T:
        """Reads a document of this version or an older one.

        Raises:
            BadInput: a newer version, or a field that is missing, unknown or of the wrong type; the error names the field.
        """
        if not isinstance(document, dict):
            raise BadInput(f"a {self.name} is a JSON object, not `{_kind(document)}`")
        version = document.get("schema_version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise BadInput(f"`schema_version` is missing or no integer: this is no {self.name} of squeeze-export")
        needed = {part.name for part in dataclasses.fields(self.kind) if part.default is dataclasses.MISSING}  # type: ignore[arg-type]
        if version > self.version and len(needed - set(document)) > 1:
            raise BadInput(f"this is no {self.name} of squeeze-export: it lacks {' and '.join(sorted(needed - set(document))[:2])}")
        if version > self.version:
            raise BadInput(
                f"the {self.name} has schema version `{version}`, this program knows up to {self.version}",
                hint="pip install --upgrade squeeze-export",
            )
        while version < self.version:
            if version not in self.migrations:
                raise BadInput(f"the {self.name} has schema version `{version}`, which no release has written")
            document = {**self.migrations[version](document), "schema_version": version + 1}
            version += 1
        value: T = read_as(self.kind, document, self.name)
        return value

    def read(self, path: Path) -> T:
        """Reads a file that `write` wrote, of this version or an older one.

        Raises:
            BadInput: the file cannot be read, or is no strict JSON or no such document.
        """
        if path.is_dir():
            inside = path / f"{self.name}.json"
            raise BadInput(f"`{path}` is a folder, and no {self.name}", hint=str(inside) if inside.is_file() else None)
        document = read_strict(path, f"a {self.name}")
        try:
            return self.from_json(document)
        except BadInput as err:
            raise BadInput(f"`{path}`: {err.message}", hint=err.hint) from err

    def write(self, value: T, path: Path) -> None:
        """Writes a file, whole or not at all.

        Raises:
            BadInput: the file cannot be written.
            TypeError: as of `to_json`.
        """
        write_text(path, strict_text(to_json(value, self.name)))


def strict_text(document: Any) -> str:
    """JSON as people read it, indented; infinity and NaN are a ValueError."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_strict(path: Path, what: str) -> Any:
    """The JSON in a file.

    Args:
        path: the file.
        what: what it is, for the error: `a report`.

    Raises:
        BadInput: the file cannot be read, is larger than `MAX_BYTES`, or is no strict JSON.
    """
    data = read_bounded(path, MAX_BYTES, what)
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as err:
        raise BadInput(f"`{path}` is no JSON: it is no text") from err
    except (ValueError, RecursionError) as err:
        raise BadInput(f"`{path}` is no JSON: {err}") from err


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def to_json(value: Any, where: str) -> Any:
    """A dataclass, or any value of one, as JSON: dicts, lists, strings, numbers, booleans and None.

    Numpy scalars become plain ones, tuples become lists, infinity and NaN the strings `inf`, `-inf`, `nan`.

    Args:
        value: a frozen dataclass, or a value in it.
        where: its name, for the error: `report`.

    Raises:
        TypeError: JSON cannot hold a value in it; the error names its field.
    """
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name), f"{where}.{field.name}") for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key, where): to_json(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        return to_json(value.item(), where)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{where} holds a {type(value).__name__}, which JSON has no form for")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where} has the key {key!r}, which is no string")
    return key


def read_as(kind: Any, value: Any, what: str, where: str = "") -> Any:
    """Checks a value of a JSON document against a type annotation, and converts it.

    Args:
        kind: the annotation: a dataclass, `tuple[X, ...]`, `Mapping[str, X]`, `Literal`, `X | None`, `int | str`, str, int, float,
            bool or Any.
        value: as `json.loads` gives it.
        what: the document, for the error: `report`.
        where: the value's path in the document.

    Raises:
        BadInput: a field that is missing, unknown or of the wrong type; the error names it.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        fitting = [part for part in arguments if part is type(value)] or [part for part in arguments if part is not type(None)]
        return None if fitting[0] is type(None) else read_as(fitting[0], value, what, where)
    if origin is Literal:
        _expect(isinstance(value, str) and value in arguments, " or ".join(arguments), value, what, where)
        return value
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, what, where)
        return tuple(read_as(arguments[0], item, what, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is Mapping:
        _expect(isinstance(value, dict), "an object", value, what, where)
        return {key: read_as(arguments[1], item, what, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, what, where)
    if kind is float:
        if isinstance(value, str) and value in _NOT_FINITE:
            return _NOT_FINITE[value]
        _expect(isinstance(value, int | float) and not isinstance(value, bool), "a number", value, what, where)
        _expect(isinstance(value, float) or abs(value) < 1e300, "a number of this size", value, what, where)
        return float(value)
    _expect(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), _WORDS[kind], value, what, where)
    _expect(kind is not int or abs(value) < 2**63, "an integer of 64 bits", value, what, where)
    return value


def _read_fields(kind: Any, value: Any, what: str, where: str) -> Any:
    prefix = f"{where}." if where else ""
    _expect(isinstance(value, dict), "an object", value, what, where)
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise BadInput(f"the {what} has an unknown field `{prefix}{unknown[0]}`")
    known = {}
    for part in dataclasses.fields(kind):
        if part.name in value:
            known[part.name] = read_as(hints[part.name], value[part.name], what, f"{prefix}{part.name}")
        elif part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
            raise BadInput(f"the {what} lacks the field `{prefix}{part.name}`")
    return kind(**known)


_WORDS = {str: "a string", int: "an integer", bool: "true or false"}


def _expect(fits: bool, wanted: str, value: Any, what: str, where: str) -> None:
    if not fits:
        raise BadInput(f"the {what}'s field `{where}` is {_kind(value)}, not {wanted}")


def _kind(value: Any) -> str:
    """A value as an error message shows it: cut if it is long."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else f"{shown[:36]}..."


def json_schema(schema: Schema[Any]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of the documents that this version writes, for people who read them with other tools.

    Descriptions come from the `Attributes:` of the dataclasses. It is no stricter than `read_as`.
    """
    definitions: dict[str, Any] = {}
    body = _schema_of(schema.kind, definitions)
    definitions[schema.kind.__name__]["properties"]["schema_version"]["const"] = schema.version
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{schema.name} of squeeze-export, schema version {schema.version}",
        **body,
        "$defs": dict(sorted(definitions.items())),
    }


def _schema_of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of an annotation, as `read_as` understands it; dataclasses go to `definitions`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if part is type(None) else _schema_of(part, definitions) for part in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(arguments[0], definitions)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema_of(arguments[1], definitions)}
    if dataclasses.is_dataclass(kind):
        name = kind.__name__  # type: ignore[union-attr]  # a class, not an instance
        if name not in definitions:
            definitions[name] = {}  # before its fields, which may name it
            definitions[name] = _schema_of_fields(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if kind is float:
        definitions["Number"] = {"anyOf": [{"type": "number"}, {"enum": list(_NOT_FINITE)}]}
        return {"$ref": "#/$defs/Number"}
    return {"type": {str: "string", int: "integer", bool: "boolean"}[kind]}


def _schema_of_fields(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints, told = get_type_hints(kind), _attributes(kind)
    fields = dataclasses.fields(kind)
    required = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    properties = {
        field.name: _schema_of(hints[field.name], definitions) | ({"description": told[field.name]} if field.name in told else {})
        for field in fields
    }
    head = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    return {
        "description": head,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _attributes(kind: Any) -> dict[str, str]:
    """What a dataclass's docstring tells of its fields."""
    _, _, section = (kind.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", section, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}
