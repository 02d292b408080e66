"""The classes of a network by name, and matching the names of folders to them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from squeeze_export.errors import BadInput
from squeeze_export.images.names import shown

WNID = re.compile(r"n\d{8}", re.ASCII)
"""A WordNet id: ImageNet's name of a class, and of its folder."""

_LABELS_HINT = "pass `--labels` a file with one name a line, in index order"
_TWICE_HINT = "pass `--labels` or `--classes` a file whose names differ, such as wnids, or give `class_index` in a manifest"


@dataclass(frozen=True)
class Labels:
    """The classes of a network by name.

    Attributes:
        names: what people read, in index order; empty where no names are known. Two classes may share one, as ImageNet's two
            `crane`s do: only a folder of that name is refused.
        wnids: the WordNet ids that stood beside the names, in the same order, or empty.
    """

    names: tuple[str, ...] = ()
    wnids: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassMatch:
    """A folder, or a label in a manifest, and the class that it stands for.

    Attributes:
        name: of the folder, or the text in the manifest.
        class_index: of the network.
        exact: whether a name or wnid is the same letter for letter. Without any labels it is False: the order decided.
    """

    name: str
    class_index: int
    exact: bool


def check_label_count(labels: Labels, class_count: int) -> None:
    """Refuses labels that are not one per class.

    Raises:
        BadInput: both counts are named.
    """
    if len(labels.names) != class_count:
        raise BadInput(f"`{len(labels.names)}` labels for a network of `{class_count}` classes", hint=_LABELS_HINT)


class LabelIndex:
    """Finds a class by its name or wnid.

    What is not there letter for letter is looked for once more without regard to case, spaces, underscores and hyphens; then,
    where there are wnids, among the synonyms that WordNet separates by commas, and by a wnid in front of the name, as in
    `n02085620-Chihuahua`. Each of these counts only where it leads to a single class.
    """

    def __init__(self, labels: Labels) -> None:
        self._exact: dict[str, list[int]] = {}
        self._loosely: dict[str, list[int]] = {}
        self._synonyms: dict[str, list[int]] = {}
        for index, name in enumerate(labels.names):
            keys = dict.fromkeys((name, *labels.wnids[index : index + 1]))
            for key in keys:
                self._exact.setdefault(key, []).append(index)
            for key in dict.fromkeys(map(_loosened, keys)):
                self._loosely.setdefault(key, []).append(index)
            for key in dict.fromkeys(map(_loosened, name.split(","))) if labels.wnids else ():
                self._synonyms.setdefault(key, []).append(index)

    def find(self, name: str) -> ClassMatch | None:
        """The class of that name; None where there is none.

        Raises:
            BadInput: more than one class has the name.
        """
        loosened = _loosened(name)
        tries = [(self._exact, name), (self._loosely, loosened), (self._synonyms, loosened)]
        if WNID.match(name):
            tries.append((self._exact, name[:9]))
        for names, key in tries:
            found = names.get(key, [])
            if len(found) > 1:
                raise BadInput(f"{shown(name)} is the name of classes `{found[0]}` and `{found[1]}`", hint=_TWICE_HINT)
            if found:
                return ClassMatch(name, found[0], exact=names is self._exact and key == name)
        return None


def _loosened(name: str) -> str:
    """Without regard to case, spaces, underscores and hyphens; file systems also differ in how they compose accents."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()


def check_one_each(matches: Iterable[ClassMatch], what: str) -> None:
    """Refuses two names of one class: one of them may be meant for a class that the labels lack.

    Args:
        matches: of different names.
        what: they are, such as `folders`.

    Raises:
        BadInput: the first two are named.
    """
    first: dict[int, str] = {}
    for match in matches:
        other = first.setdefault(match.class_index, match.name)
        if other != match.name:
            raise BadInput(
                f"the {what} {shown(other)} and {shown(match.name)} would both be class `{match.class_index}`",
                hint="give both the class's own name, or pass labels that tell them apart",
            )


def match_folders(with_images: Sequence[str], every: Sequence[str], class_count: int, labels: Labels) -> tuple[ClassMatch, ...]:
    """Folder names to classes.

    By name where there are labels. Otherwise in alphabetical order, which is how torchvision's `ImageFolder` numbers them, but
    only where there is one folder per class: with fewer, the numbers would be those of other classes.

    Args:
        with_images: folders that hold images.
        every: all folders, sorted; in the alphabetical rule an empty one has its number too.
        class_count: classes of the network.
        labels: of the network's classes, or none.

    Returns:
        one for each folder that was matched, in their order.

    Raises:
        BadInput: a folder is no class (the first is named), is two classes, two are one, or the counts differ.
    """
    if not labels.names:
        if len(every) != class_count:
            folders = "folder" if len(every) == 1 else "folders"
            raise BadInput(f"`{len(every)}` {folders} cannot be matched to `{class_count}` classes", hint=_LABELS_HINT)
        return tuple(ClassMatch(name, index, exact=False) for index, name in enumerate(every))
    check_label_count(labels, class_count)
    index = LabelIndex(labels)
    found = {name: index.find(name) for name in with_images}
    unknown = [name for name, match in found.items() if match is None]
    if unknown:
        raise BadInput(
            f"`{len(unknown)}` of `{len(found)}` folders are not among the labels, the first is {shown(unknown[0])}",
            hint="pass `--labels`, or `--classes` beside it, a file with the folders' names, one a line, in index order",
        )
    matches = tuple(match for match in found.values() if match is not None)
    check_one_each(matches, "folders")
    return matches
