"""Finds the images that a user points at: a plain folder, one folder per class, or a manifest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from squeeze_export.errors import BadInput
from squeeze_export.images.file_list import FileList
from squeeze_export.images.labels import ClassMatch, Labels, match_folders
from squeeze_export.images.manifest import SUFFIXES as MANIFEST_SUFFIXES
from squeeze_export.images.manifest import UNKNOWN, read_manifest
from squeeze_export.images.names import shown, shown_file
from squeeze_export.images.preprocess import READS_AVIF

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"),
    *((".avif",) if READS_AVIF else ()),
)
OTHER_SUFFIXES = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    **dict.fromkeys((".jp2", ".j2k"), "JPEG 2000"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"), "raw"),
    ".jxl": "JPEG XL",
    **({} if READS_AVIF else {".avif": "AVIF"}),
}
"""Images that are not read, and what they are: left out, but not without a word."""

Kind: TypeAlias = Literal["image", "other image", "folder"]

_PARTS_OF_A_SET = frozenset({"train", "training", "val", "valid", "validation", "eval", "test", "testing"})

_KINDS_HINT = "a folder of images, a folder with one sub-folder per class, a `.csv` manifest or a `.txt` list"


@dataclass(frozen=True)
class ImageSet:
    """Images found, not yet read.

    Attributes:
        root: the folder; of a manifest, the folder it lies in.
        files: sorted by their path below `root`, part by part, so the order is the same on every machine.
        labels: class index per file, -1 where unknown; None where nothing is known of any.
        class_source: how the labels were matched, for the report.
        matches: the folders, or the manifest's labels, and their classes; empty where there are none.
        not_read: which images were left out because of their format, one line for each folder.
    """

    root: Path
    files: Sequence[Path]
    labels: tuple[int, ...] | None
    class_source: str
    matches: tuple[ClassMatch, ...] = ()
    not_read: tuple[str, ...] = ()

    def part(self, start: int, stop: int) -> ImageSet:
        """The images from the place `start` to that before `stop`."""
        labels = None if self.labels is None else self.labels[start:stop]
        return replace(self, files=tuple(self.files[start:stop]), labels=labels)


def open_images(path: Path, *, class_count: int, labels: Labels | None = None) -> ImageSet:
    """Finds the images to evaluate on, with their classes.

    - a folder with images in it: unlabelled;
    - a folder with sub-folders: each holds one class, searched to any depth; matched by name where there are `labels`, in
      alphabetical order where there are none and as many folders as classes;
    - a `.csv` or `.txt` file: see `manifest`.

    Hidden files, and files whose suffix is not in `SUFFIXES`, are left out; those of `OTHER_SUFFIXES` are counted in a note. Links
    are followed.

    Args:
        path: the folder or manifest.
        class_count: classes of the network.
        labels: of the network's classes, or none.

    Raises:
        BadInput: missing, without images, images both beside and in sub-folders, folders such as `train` and `test` with folders
            in them, or classes that cannot be matched.
    """
    if _is_manifest(path):
        return _listed(path, class_count, labels)
    top = _listing(path)
    inside = {folder: _search(folder, within=path) for folder in top.folders}
    filled = [folder for folder in top.folders if inside[folder].images]
    if top.images and filled:
        raise BadInput(
            f"{shown(path)} holds images both beside and inside sub-folders such as {shown(filled[0].name)}",
            hint="put every image into the folder of its class, or leave none in sub-folders",
        )
    others = [*top.others, *(file for found in inside.values() for file in found.others)]
    parts = {folder.name.lower() for folder in filled}
    if len(parts) > 1 and parts <= _PARTS_OF_A_SET and all(_listing(folder).folders for folder in filled):
        raise BadInput(
            f"{shown(path)} holds the parts of a set, not its classes: {', '.join(shown(folder.name) for folder in filled)}",
            hint=f"name one of them: `{filled[-1]}`",
        )
    if not filled:
        return _image_set(path, FileList(top.images), (), "none: a folder without sub-folders", others=others)
    labels = labels or Labels()
    matches = match_folders([f.name for f in filled], [f.name for f in top.folders], class_count, labels)
    classes = {match.name: match.class_index for match in matches}
    files = FileList(file for folder in filled for file in inside[folder].images)
    of_each = tuple(classes[folder.name] for folder in filled for _ in range(len(inside[folder].images)))
    source = "folder names, matched to the labels" if labels.names else "folders in alphabetical order, one per class"
    return _image_set(path, files, of_each, source, matches, others)


def open_calibration(path: Path) -> ImageSet:
    """Finds the images to calibrate on: those of a folder and everything below it, or of a manifest; labels are ignored.

    Raises:
        BadInput: missing, or without images.
    """
    if _is_manifest(path):
        return _listed(path)
    found = _search(path)
    return _image_set(path, found.images, (), "labels ignored", others=found.others)


def open_calibration_folders(paths: Sequence[Path]) -> tuple[ImageSet, tuple[int, ...]]:
    """Finds the images of several folders or manifests, folder after folder.

    Returns:
        all images as one set (its root is the first folder's), and for each the index of its folder.

    Raises:
        BadInput: a folder is missing or without images, or is there twice, or lies in another, which would count its images twice.
    """
    sets = [open_calibration(path) for path in paths]
    owner: dict[Path, int] = {}
    for index, found in enumerate(sets):
        for file in (Path(os.path.realpath(file)) for file in found.files):
            if owner.setdefault(file, index) != index:
                raise BadInput(
                    f"{shown(paths[index])} holds images that {shown(paths[owner[file]])} holds too, the first is {shown(file)}",
                    hint="name folders that share no image",
                )
    owners = tuple(index for index, found in enumerate(sets) for _ in found.files)
    files = tuple(file for found in sets for file in found.files)
    not_read = tuple(line for found in sets for line in found.not_read)
    return ImageSet(sets[0].root, FileList(files), None, "labels ignored", not_read=not_read), owners


def _listed(path: Path, class_count: int | None = None, labels: Labels | None = None) -> ImageSet:
    """The images of a manifest."""
    listed = read_manifest(path, class_count=class_count, labels=labels)
    files = sorted(listed.files, key=lambda file: file.parts)
    of_each = tuple(listed.files[file] for file in files)
    return _image_set(path.parent, FileList(files), of_each, listed.class_source, listed.matches)


def _image_set(
    root: Path,
    files: FileList,
    labels: tuple[int, ...],
    source: str,
    matches: tuple[ClassMatch, ...] = (),
    others: Sequence[Path] = (),
) -> ImageSet:
    """What was found, in order; `labels` may be none, `others` are images of formats that are not read.

    Raises:
        BadInput: nothing was found.
    """
    if not files and others:
        raise BadInput(f"{shown(root)} holds no images that can be read: {_counted(others, root)}", hint=_CONVERT_HINT)
    if not files:
        raise BadInput(f"{shown(root)} holds no images", hint=f"looked for {' '.join(SUFFIXES)}")
    not_read = (f"{_counted(others, root)}; convert them to JPEG or PNG",) if others else ()
    known = any(label != UNKNOWN for label in labels)
    return ImageSet(root, files, labels if known else None, source, matches, not_read)


_CONVERT_HINT = "convert them to JPEG or PNG, for example with ImageMagick: `magick mogrify -format jpg *.heic`"


def _counted(others: Sequence[Path], root: Path) -> str:
    """Such as ``2 HEIC files, the first is `a.heic` ``; several formats by commas."""
    first: dict[str, Path] = {}
    counts: Counter[str] = Counter()
    for file in sorted(others, key=lambda file: file.parts):
        kind = OTHER_SUFFIXES[file.suffix.lower()]
        first.setdefault(kind, file)
        counts[kind] += 1
    return ", ".join(
        f"`{count}` {kind} {'file' if count == 1 else 'files'}, the first is {shown_file(first[kind], root)}"
        for kind, count in counts.items()
    )


def _is_manifest(path: Path) -> bool:
    """True for a `.csv` or `.txt` file, False for a folder.

    Raises:
        BadInput: neither.
    """
    # os.path, not Path.is_dir: that raises where a folder on the way must not be entered.
    if os.path.isdir(path):
        return False
    if not os.path.exists(path):
        raise BadInput(f"{shown(path)} does not exist", hint=_KINDS_HINT)
    if path.suffix.lower() not in MANIFEST_SUFFIXES or not os.path.isfile(path):
        raise BadInput(f"{shown(path)} is neither a folder nor a `.csv` manifest nor a `.txt` list", hint=_KINDS_HINT)
    return True


@dataclass(frozen=True)
class _Listing:
    """What a folder holds: images, images of formats that are not read, and folders."""

    images: list[Path]
    others: list[Path]
    folders: list[Path]


@dataclass(frozen=True)
class _Found:
    """What a folder and everything below it holds: images in order, and those of formats that are not read."""

    images: FileList
    others: list[Path]


def _has_suffix(entry: os.DirEntry[str], suffixes: Collection[str]) -> bool:
    """True for a file with such a suffix. A dead link counts: it is a broken image, to be named, not one to overlook."""
    if os.path.splitext(entry.name)[1].lower() not in suffixes:
        return False
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _entries(folder: Path) -> list[tuple[str, Kind]]:
    """The names in a folder and what they are, sorted, without hidden ones and what does not matter here.

    Raises:
        BadInput: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = [(entry.name, _kind(entry)) for entry in found if not entry.name.startswith(".")]
    except OSError as err:
        raise BadInput(f"{shown(folder)} cannot be read ({err.strerror})", hint="check its permissions") from err
    return sorted((name, kind) for name, kind in entries if kind is not None)


def _kind(entry: os.DirEntry[str]) -> Kind | None:
    if _has_suffix(entry, SUFFIXES):
        return "image"
    if _has_suffix(entry, OTHER_SUFFIXES):
        return "other image"
    return "folder" if os.path.isdir(entry.path) else None


def _listing(folder: Path) -> _Listing:
    """What is directly in a folder, each kind sorted.

    Raises:
        BadInput: the folder cannot be read.
    """
    found: dict[Kind, list[Path]] = {kind: [] for kind in get_args(Kind)}
    for name, kind in _entries(folder):
        found[kind].append(folder / name)
    return _Listing(found["image"], found["other image"], found["folder"])


def _search(root: Path, within: Path | None = None) -> _Found:
    """The images of a folder and of everything below it, in the order of their paths, part by part.

    Each real folder is entered once, and `within` never: a link back to a parent neither loops nor brings in other classes.
    """
    others: list[Path] = []

    def images() -> Iterator[Path]:
        seen = {_identity(within)} if within else set()
        open_folders = [(root, iter(_entries(root)))] if _identity(root) not in seen else []
        seen.add(_identity(root))
        while open_folders:
            folder, entries = open_folders[-1]
            name, kind = next(entries, ("", None))
            if kind is None:
                open_folders.pop()
            elif kind == "image":
                yield folder / name
            elif kind == "other image":
                others.append(folder / name)
            else:
                inner = folder / name, iter(_entries(folder / name))
                if _identity(inner[0]) not in seen:
                    seen.add(_identity(inner[0]))
                    open_folders.append(inner)

    return _Found(FileList(images()), others)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
