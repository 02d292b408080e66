"""Files of class names, in the forms that people have.

    tench                                   one name a line, in index order
    n01440764                               one WordNet id a line
    n01440764 tench, Tinca tinca            ImageNet's synset_words.txt
    0 tench      0,tench      0: 'tench'    index and name, in any order of the lines; CSV with or without a header
    tench 0      tench,0                    name and index
    ["tench", ...]                          a JSON list
    {"0": "tench", ...}                     a JSON object of index and name
    {"tench": 0, ...}                       torchvision's `class_to_idx`
    {"0": ["n01440764", "tench"], ...}      Keras's imagenet_class_index.json
    {"id2label": {"0": "tench"}, ...}       a model's config.json, or a sidecar's `labels`

The form is told by what most lines look like. A line that differs from most is then named, never read as something else. Numbers
count from 0; where they do not, they belong to the name, as in `5 euro`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze_export.errors import BadInput
from squeeze_export.images.labels import WNID, Labels
from squeeze_export.images.names import shown

MAX_LABELS_BYTES = 16_000_000
MAX_LABEL_COUNT = 100_000
MAX_LABEL_LENGTH = 1_000

_HINT = "one name a line, in index order"
_JSON_HINT = 'a list of names, or an object such as {"0": "tench"} or {"tench": 0}'
_FROM_0_HINT = "number the classes from 0; if the numbers are part of the names, write a JSON list"
_SEPARATORS = " \t,;:="
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_FORMS = (
    *(("index", "wnid", "name"), ("wnid", "index", "name"), ("index", "wnid"), ("wnid", "index")),
    *(("wnid", "name"), ("index", "name"), ("name", "index")),
)
"""What a line may consist of, the most telling first; else it is a name."""
_HEADINGS = {"class", "class_id", "class_index", "class_name", "id", "idx", "index", "label", "label_id", "name", "synset", "wnid"}
_INSIDE = ("labels", "classes", "names", "id2label", "class_to_idx")
"""Keys under which a larger JSON file keeps the names."""


@dataclass(frozen=True)
class _Entry:
    """One class: `index` is None where the place in the file counts; `where` is for a message, such as ``line `3` ``."""

    where: str
    index: int | None
    wnid: str
    name: str


def read_text(path: Path, max_bytes: int) -> str:
    """A UTF-8 file of at most `max_bytes`, without its byte-order mark.

    Raises:
        BadInput: unreadable, larger, or not UTF-8 (the line is named).
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as err:
        raise BadInput(f"{shown(path)} cannot be read ({err.strerror or type(err).__name__})", hint="check the path") from err
    if len(data) > max_bytes:
        raise BadInput(f"{shown(path)} is larger than `{max_bytes:,}` bytes", hint="is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise BadInput(f"{shown(path)} line `{line}` is not UTF-8 text", hint="save the file as UTF-8") from err


def read_labels(path: Path) -> Labels:
    """The classes of a network, from a file of any of the forms above.

    Returns:
        names and wnids in index order, white space at both ends of a name taken off; a newline after the last is allowed.

    Raises:
        BadInput: unreadable, not UTF-8, above `MAX_LABELS_BYTES` or `MAX_LABEL_COUNT`, without a name; with the line or the entry:
            an empty name, one above `MAX_LABEL_LENGTH`, a control character, a line of another form than most, a class that is
            missing or there twice.
    """
    text = read_text(path, MAX_LABELS_BYTES)
    is_json = re.match(r"\s*(\[\s*[\"\[\]]|\{\s*[\"}])", text)
    entries = _json_entries(path, text) if is_json else _line_entries(path, text)
    if not entries:
        raise BadInput(f"{shown(path)} holds no labels", hint=_HINT)
    _check_count(path, len(entries))
    for entry in entries:
        _check_name(path, entry)
    ordered = _in_order(path, entries)
    wnids = tuple(entry.wnid for entry in ordered)
    return Labels(tuple(entry.name for entry in ordered), wnids if all(wnids) else ())


def _check_count(path: Path, count: int) -> None:
    if count > MAX_LABEL_COUNT:
        raise BadInput(f"{shown(path)} holds more than `{MAX_LABEL_COUNT:,}` labels", hint="is it the right file?")


def _check_name(path: Path, entry: _Entry) -> None:
    if not entry.name:
        raise BadInput(f"{shown(path)} {entry.where} is empty", hint=_HINT)
    if len(entry.name) > MAX_LABEL_LENGTH:
        raise BadInput(f"{shown(path)} {entry.where} is longer than `{MAX_LABEL_LENGTH:,}` characters", hint=_HINT)
    if any(unicodedata.category(character) == "Cc" for character in entry.name):
        raise BadInput(f"{shown(path)} {entry.where} holds control characters: {shown(entry.name)}", hint="a plain text file")


def _in_order(path: Path, entries: Sequence[_Entry]) -> Sequence[_Entry]:
    """By their indices, which must be all of 0, 1, 2 ...; as they stand where they have none."""
    if entries[0].index is None:
        return entries
    first: dict[int | None, str] = {}
    for entry in entries:
        if entry.index in first:
            message = f"{shown(path)} {entry.where}: class `{entry.index}` is already on {first[entry.index]}"
            raise BadInput(message, hint="each class once")
        first[entry.index] = entry.where
    missing = next((index for index in range(len(entries)) if index not in first), None)
    if missing is not None:
        last = max(entries, key=lambda entry: entry.index or 0)
        raise BadInput(
            f"{shown(path)} {last.where}: class `{last.index}`, but there is no class `{missing}` among `{len(entries)}`",
            hint=_FROM_0_HINT,
        )
    return sorted(entries, key=lambda entry: entry.index or 0)


# --- lines


def _line_entries(path: Path, text: str) -> list[_Entry]:
    """The classes of a text file."""
    lines = [(f"line `{number}`", line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    if not lines[-1][1]:
        lines.pop()
    if re.match(r"\s*\{\s*\d+\s*:", text):
        lines = _without_braces(lines)
    _check_count(path, len(lines))
    for where, line in lines:
        if not line:
            raise BadInput(f"{shown(path)} {where} is empty", hint=_HINT)
    for form in _FORMS:
        parsed = [_parsed(where, line, form) for where, line in lines]
        found = [entry for entry in parsed if entry is not None]
        if 2 * len(found) <= len(lines) or ("index" in form and not _is_numbered(path, found, form)):
            continue
        if parsed[0] is None and set(re.findall(r"\w+", lines[0][1].lower())) <= _HEADINGS:
            del parsed[0], lines[0]
        odd = next((line for line, entry in zip(lines, parsed, strict=True) if entry is None), None)
        if odd is not None:
            what = f"{odd[0]} is not of the form `{' '.join(form)}`, as most are: {shown(odd[1])}"
            raise BadInput(f"{shown(path)} {what}", hint="one class a line, all in the same form")
        return found
    return [_Entry(where, None, line if WNID.fullmatch(line) else "", line) for where, line in lines]


def _without_braces(lines: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The lines of a Python dict as `print` writes it, one class a line: `{0: 'tench, Tinca tinca',`."""
    bare = [(where, line.removeprefix("{").removesuffix("}").strip().removesuffix(",")) for where, line in lines]
    return [(where, line) for where, line in bare if line]


def _parsed(where: str, line: str, form: tuple[str, ...]) -> _Entry | None:
    """The line as an entry of that form; None where it has another."""
    found = {"index": "", "wnid": "", "name": ""}
    if form[-1] == "index":  # taken off the end, since a name may hold anything
        line, found["index"] = _last_number(line)
        form = form[:-1] if found["index"] else ()
    for field in form:
        if field == "name":
            found["name"], line = line, ""
            break
        token = (WNID if field == "wnid" else _NUMBER).match(line)
        if token is None or line[token.end() : token.end() + 1] not in ("", *_SEPARATORS):
            return None
        found[field], line = token[0], line[token.end() :].lstrip(_SEPARATORS)
    name = _unquoted(found["name"]) or found["wnid"]
    if line or not form or ("name" in form and not found["name"]):
        return None
    return _Entry(where, int(found["index"]) if found["index"] else None, found["wnid"], name)


def _last_number(line: str) -> tuple[str, str]:
    """What stands before the number at the end of a line, and the number; empty where there is none behind a separator."""
    before = line.rstrip("0123456789")
    name, number = before.rstrip(_SEPARATORS), line[len(before) :]
    return (name, number) if name != before and _NUMBER.fullmatch(number) else (line, "")


def _unquoted(name: str) -> str:
    for quote in "\"'":
        if len(name) > 1 and name[0] == name[-1] == quote:
            return name[1:-1].replace(quote * 2, quote).strip()
    return name


def _is_numbered(path: Path, entries: Sequence[_Entry], form: tuple[str, ...]) -> bool:
    """Whether the numbers are indices of classes. They are part of the names where none is 0, as in `5 euro`, or where hardly
    anything is left of the names without them, as in `zone 0`.

    Raises:
        BadInput: they count from 1, so that they cannot be told from a part of the name.
    """
    differ = 2 * len({entry.name for entry in entries}) > len(entries) or len(entries) == 1
    numbers = sorted(entry.index or 0 for entry in entries)
    if differ and numbers == list(range(1, len(numbers) + 1)):
        raise BadInput(f"{shown(path)} numbers its `{len(numbers)}` classes from 1 (`{' '.join(form)}`)", hint=_FROM_0_HINT)
    return differ and numbers[0] == 0


# --- JSON


def _json_entries(path: Path, text: str) -> list[_Entry]:
    """The classes of a JSON file."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as err:
        raise BadInput(f"{shown(path)} line `{err.lineno}` is not JSON ({err.msg})", hint=_JSON_HINT) from err
    except (ValueError, RecursionError) as err:
        raise BadInput(f"{shown(path)} is not a JSON file of labels ({err})", hint=_JSON_HINT) from err
    if isinstance(value, dict):
        value = next((value[key] for key in _INSIDE if isinstance(value.get(key), list | dict)), value)
    pairs = _numbered(path, value) if isinstance(value, dict) else [(None, item) for item in value]
    return [_json_entry(path, f"entry `{number}`", index, item) for number, (index, item) in enumerate(pairs, start=1)]


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, which must not have a key twice: of two, Python would keep the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {shown(twice)} is there twice")
    return found


def _numbered(path: Path, value: Mapping[str, Any]) -> list[tuple[int | None, Any]]:
    """Index and name of each pair, whichever of the two is the key."""
    if all(_NUMBER.fullmatch(key) for key in value):
        return [(int(key), item) for key, item in value.items()]
    for key, item in value.items():
        if not isinstance(item, int) or isinstance(item, bool):
            raise BadInput(f"{shown(path)}: {shown(key)} has {shown(item)} where a class index should be", hint=_JSON_HINT)
    return [(item, key) for key, item in value.items()]


def _json_entry(path: Path, where: str, index: int | None, item: Any) -> _Entry:
    """One class: a name, or a pair of wnid and name as Keras has it."""
    if isinstance(item, str):
        name = item.strip()
        return _Entry(where, index, name if WNID.fullmatch(name) else "", name)
    if isinstance(item, list) and len(item) == 2 and all(isinstance(text, str) for text in item) and WNID.fullmatch(item[0]):
        return _Entry(where, index, item[0], item[1].strip())
    raise BadInput(f"{shown(path)} {where} is neither a name nor a pair of wnid and name: {shown(item)}", hint=_JSON_HINT)
