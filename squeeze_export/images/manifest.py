"""The manifest: which files, and what is on them. Paths are relative to its own folder.

A `.csv` file has a header. The class is `class_index` (0 up) or `label` (a name out of `--labels`); where both columns are there,
`class_index` counts. An empty cell means that the class is unknown. Other columns are ignored.

    file,class_index
    cats/0001.jpg,281
    dogs/0007.jpg,207

A `.txt` file is Caffe's and ImageNet's `val.txt`: a path and a class index on each line, or on each line a path alone.

    cats/0001.jpg 281
    dogs/0007.jpg 207
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from squeeze_export.errors import BadInput
from squeeze_export.images.label_files import read_text
from squeeze_export.images.labels import ClassMatch, LabelIndex, Labels, check_label_count, check_one_each
from squeeze_export.images.names import shown

MAX_MANIFEST_BYTES = 64_000_000
MAX_ROWS = 5_000_000
UNKNOWN = -1

SUFFIXES = (".csv", ".txt")

_HEADER_HINT = "the first line is a header: `file,class_index` or `file,label`"
_LINE_HINT = "`path index` on every line, or a path alone on every line"
_SOURCES = {
    "": "labels ignored",
    "class_index": "manifest column class_index",
    "label": "manifest column label, matched to the labels",
    "list": "list of paths and class indices",
}
_Row = tuple[int, str, str]  # line number, file, class


class Listed(NamedTuple):
    """What a manifest says.

    Attributes:
        files: file -> class index (`UNKNOWN` where not given), in the order of the rows.
        class_source: how the classes were matched.
        matches: the labels in it, and the classes that they stand for; empty where it has class indices.
    """

    files: dict[Path, int]
    class_source: str
    matches: tuple[ClassMatch, ...]


def read_manifest(path: Path, *, class_count: int | None = None, labels: Labels | None = None) -> Listed:
    """Reads a manifest.

    Args:
        path: the `.csv` or `.txt` file, UTF-8.
        class_count: classes of the network; None reads the files alone and ignores what is on them.
        labels: of the network's classes, for the column `label`.

    Raises:
        BadInput: with the line number: a missing column, a class out of range or unknown, a path that leaves the folder, a file
            that is missing or listed twice; or the manifest is larger than `MAX_MANIFEST_BYTES` or `MAX_ROWS`.
    """
    labels = labels or Labels()
    column, rows = (_lines if path.suffix.lower() == ".txt" else _rows)(path, class_count is not None)
    if class_count is not None and labels.names:
        check_label_count(labels, class_count)
    elif column == "label":
        raise BadInput(f"{shown(path)} names classes by `label`, but no names are known", hint="pass `--labels FILE`")
    index = LabelIndex(labels)
    found: dict[Path, int] = {}
    first_line: dict[Path, int] = {}
    missing: list[tuple[int, str]] = []
    matches: dict[str, ClassMatch] = {}
    for line, name, text in rows:
        where = f"{shown(path)} line `{line}`"
        file = _inside(path.parent, name, where)
        if file in first_line:
            raise BadInput(f"{where}: {shown(name)} is already on line `{first_line[file]}`", hint="list each file once")
        first_line[file] = line
        if not os.path.isfile(file):
            missing.append((line, name))
        if column == "label" and text:
            matches[text] = matches.get(text) or _match(index, text, where)
            found[file] = matches[text].class_index
        else:
            found[file] = _class(text, class_count or 0, where) if column and text else UNKNOWN
    check_one_each(matches.values(), "labels")
    if missing:
        line, name = missing[0]
        raise BadInput(
            f"`{len(missing)}` of `{len(found)}` files in {shown(path)} are missing, the first is {shown(name)} (line {line})",
            hint="paths are relative to the manifest's folder",
        )
    return Listed(found, _SOURCES[column], tuple(matches.values()))


def _lines(path: Path, classes: bool) -> tuple[str, list[_Row]]:
    """The rows of a list of paths, and `list` as the column that gives the class, if there is one and it is asked for."""
    rows: list[_Row] = []
    for number, line in enumerate(read_text(path, MAX_MANIFEST_BYTES).split("\n"), start=1):
        before = line.strip().rstrip("0123456789")
        name, index = before.rstrip(" \t,;"), line.strip()[len(before) :]
        if line.strip():
            rows.append((number, name, index) if index and name != before else (number, line.strip(), ""))
        if len(rows) > MAX_ROWS:
            raise BadInput(f"{shown(path)} has more than `{MAX_ROWS:,}` rows", hint="split it")
    if not rows:
        raise BadInput(f"{shown(path)} lists no files", hint=_LINE_HINT)
    indexed = any(index for _, _, index in rows)
    bare = next((row for row in rows if not row[2]), None)
    if indexed and bare:
        raise BadInput(f"{shown(path)} line `{bare[0]}` has no class index, others have one: {shown(bare[1])}", hint=_LINE_HINT)
    return "list" if indexed and classes else "", rows


def _rows(path: Path, classes: bool) -> tuple[str, list[_Row]]:
    """The column of a CSV file that gives the class (empty: none) and the rows, checked for their form."""
    reader = csv.reader(io.StringIO(read_text(path, MAX_MANIFEST_BYTES), newline=""), strict=True)
    rows: list[_Row] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        column = _class_column(path, header, classes)
        file_at = header.index("file")
        class_at = header.index(column) if column else file_at
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise BadInput(
                    f"{shown(path)} line `{reader.line_num}` has `{len(cells)}` cells, the header has `{len(header)}`",
                    hint="put names that hold a comma in double quotes",
                )
            rows.append((reader.line_num, cells[file_at], cells[class_at].strip()))
            if len(rows) > MAX_ROWS:
                raise BadInput(f"{shown(path)} has more than `{MAX_ROWS:,}` rows", hint="split it")
    except csv.Error as err:
        raise BadInput(f"{shown(path)} line `{reader.line_num}` is not CSV ({err})", hint="comma-separated, UTF-8") from err
    if not rows:
        raise BadInput(f"{shown(path)} lists no files", hint=_HEADER_HINT)
    return column, rows


def _class_column(path: Path, header: list[str], classes: bool) -> str:
    """The column that gives the class, or an empty string where classes are not asked for."""
    twice = next((name for name in ("file", "class_index", "label") if header.count(name) > 1), None)
    if twice:
        raise BadInput(f"{shown(path)} has two columns `{twice}`", hint=_HEADER_HINT)
    column = next((name for name in ("class_index", "label") if name in header), "") if classes else ""
    if "file" not in header or (classes and not column):
        need = "`class_index` or `label`" if "file" in header else "`file`"
        raise BadInput(f"{shown(path)} has no column {need}, only {shown(', '.join(header))}", hint=_HEADER_HINT)
    return column


def _inside(folder: Path, name: str, where: str) -> Path:
    """The file of that name in the folder; a manifest from a stranger reaches nothing outside its own folder."""
    windows = PureWindowsPath(name)  # drives and `..\\` are refused everywhere: a manifest means one thing on every machine
    if not name.strip() or "\0" in name:
        raise BadInput(f"{where} names no file", hint=_HEADER_HINT)
    if PurePosixPath(name).is_absolute() or windows.anchor or ".." in windows.parts:
        raise BadInput(f"{where}: {shown(name)} leads out of the manifest's folder", hint="relative paths without `..`")
    return folder / name


def _match(index: LabelIndex, text: str, where: str) -> ClassMatch:
    """The class of a label."""
    found = index.find(text)
    if found is None:
        raise BadInput(f"{where}: {shown(text)} is not among the labels", hint="names of `--labels`, or of `--classes` beside it")
    return found


def _class(text: str, class_count: int, where: str) -> int:
    """The class of an index."""
    # int() would also take `+1`, `1_0` and digits of other scripts.
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadInput(f"{where}: {shown(text)} is not a class index", hint=f"a whole number from 0 to {class_count - 1}")
    if int(text) >= class_count:
        raise BadInput(f"{where}: class `{text}` is out of range", hint=f"the network's classes are 0 to {class_count - 1}")
    return int(text)
