"""Class names: read from a file, and matched to the names of folders."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from squeeze_export.errors import BadInput
from squeeze_export.images.names import shown

MAX_LABELS_BYTES = 16_000_000

_LABELS_HINT = "pass `--labels` a file with one name a line, in index order"


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


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names of a network, one a line, in index order.

    Two classes may share a name, as ImageNet's two `crane`s do: names that go into an artifact need not differ. Only matching
    folders or manifest rows to such a name is refused (`LabelIndex.find`).

    Returns:
        the names, white space at both ends taken off; a newline after the last is allowed.

    Raises:
        BadInput: unreadable, not UTF-8, above `MAX_LABELS_BYTES`, without a name, an empty line or a control character (with
            the line number).
    """
    lines = read_text(path, MAX_LABELS_BYTES).split("\n")
    if not lines[-1].strip():
        lines.pop()
    names = tuple(line.strip() for line in lines)
    for number, name in enumerate(names, start=1):
        if not name:
            raise BadInput(f"{shown(path)} line `{number}` is empty", hint="one name a line, in index order")
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise BadInput(f"{shown(path)} line `{number}` holds control characters: {shown(name)}", hint="a plain text file")
    if not names:
        raise BadInput(f"{shown(path)} holds no labels", hint="one name a line, in index order")
    return names


def check_label_count(labels: Sequence[str], class_count: int) -> None:
    """Refuses labels that are not one per class.

    Raises:
        BadInput: both counts are named.
    """
    if len(labels) != class_count:
        raise BadInput(f"`{len(labels)}` labels for a network of `{class_count}` classes", hint=_LABELS_HINT)


class LabelIndex:
    """Finds the index of a class by its name."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._indices: dict[str, list[int]] = {}
        for index, name in enumerate(labels):
            self._indices.setdefault(name, []).append(index)

    def find(self, name: str) -> int | None:
        """The class of that name, matched letter for letter; None where there is none.

        Raises:
            BadInput: more than one class has the name.
        """
        found = self._indices.get(name, [])
        if len(found) > 1:
            raise BadInput(
                f"{shown(name)} is the name of classes `{found[0]}` and `{found[1]}`",
                hint="pass `--labels` a file whose names differ, such as wnids, or give `class_index` in a manifest",
            )
        return found[0] if found else None


def match_folders(with_images: Sequence[str], every: Sequence[str], class_count: int, labels: Sequence[str]) -> dict[str, int]:
    """Folder names to class indices.

    By name where there are labels. Otherwise in alphabetical order, which is how torchvision's `ImageFolder` numbers them, but
    only where there is one folder per class: with fewer, the numbers would be those of other classes.

    Args:
        with_images: folders that hold images.
        every: all folders, sorted; in the alphabetical rule an empty one has its number too.
        class_count: classes of the network.
        labels: class names in index order, or none.

    Raises:
        BadInput: a folder is no class (the first is named), is two classes, or the counts differ.
    """
    if not labels:
        if len(every) != class_count:
            folders = "folder" if len(every) == 1 else "folders"
            raise BadInput(f"`{len(every)}` {folders} cannot be matched to `{class_count}` classes", hint=_LABELS_HINT)
        return {name: index for index, name in enumerate(every)}
    check_label_count(labels, class_count)
    index = LabelIndex(labels)
    found = {name: index.find(name) for name in with_images}
    unknown = [name for name, number in found.items() if number is None]
    if unknown:
        raise BadInput(
            f"`{len(unknown)}` of `{len(found)}` folders are not among the labels, the first is {shown(unknown[0])}",
            hint="pass `--labels` a file with the folders' names, one a line, in index order",
        )
    return {name: number for name, number in found.items() if number is not None}
