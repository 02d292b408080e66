"""Finds the images that a user points at: a plain folder, one folder per class, or a manifest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
        BadInput: missing, without images, images both beside and in sub-folders, or classes that cannot be matched.
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
    others = [file for listing in (top, *inside.values()) for file in listing.others]
    if not filled:
        return _image_set(path, dict.fromkeys(top.images, UNKNOWN), "none: a folder without sub-folders", others=others)
    labels = labels or Labels()
    matches = match_folders([f.name for f in filled], [f.name for f in top.folders], class_count, labels)
    classes = {match.name: match.class_index for match in matches}
    files = {file: classes[folder.name] for folder in filled for file in inside[folder].images}
    source = "folder names, matched to the labels" if labels.names else "folders in alphabetical order, one per class"
    return _image_set(path, files, source, matches, others)


def open_calibration(path: Path) -> ImageSet:
    """Finds the images to calibrate on: those of a folder and everything below it, or of a manifest; labels are ignored.

    Raises:
        BadInput: missing, or without images.
    """
    if _is_manifest(path):
        return _listed(path)
    found = _search(path)
    return _image_set(path, dict.fromkeys(found.images, UNKNOWN), "labels ignored", others=found.others)


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
    return _image_set(path.parent, listed.files, listed.class_source, listed.matches)


def _image_set(
    root: Path, found: dict[Path, int], source: str, matches: tuple[ClassMatch, ...] = (), others: Sequence[Path] = ()
) -> ImageSet:
    """Sorts what was found; `others` are images of formats that are not read.

    Raises:
        BadInput: nothing was found.
    """
    if not found and others:
        raise BadInput(f"{shown(root)} holds no images that can be read: {_counted(others, root)}", hint=_CONVERT_HINT)
    if not found:
        raise BadInput(f"{shown(root)} holds no images", hint=f"looked for {' '.join(SUFFIXES)}")
    files = tuple(sorted(found, key=lambda file: file.parts))
    labels = tuple(found[file] for file in files)
    not_read = (f"{_counted(others, root)}; convert them to JPEG or PNG",) if others else ()
    return ImageSet(root, FileList(files), labels if any(label != UNKNOWN for label in labels) else None, source, matches, not_read)


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


def _has_suffix(entry: os.DirEntry[str], suffixes: Collection[str]) -> bool:
    """True for a file with such a suffix. A dead link counts: it is a broken image, to be named, not one to overlook."""
    if os.path.splitext(entry.name)[1].lower() not in suffixes:
        return False
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _listing(folder: Path) -> _Listing:
    """What is directly in a folder, each kind sorted, without hidden ones.

    Raises:
        BadInput: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as err:
        raise BadInput(f"{shown(folder)} cannot be read ({err.strerror})", hint="check its permissions") from err
    images = [folder / entry.name for entry in entries if _has_suffix(entry, SUFFIXES)]
    others = [folder / entry.name for entry in entries if _has_suffix(entry, OTHER_SUFFIXES)]
    return _Listing(images, others, [folder / entry.name for entry in entries if os.path.isdir(entry.path)])


def _search(root: Path, within: Path | None = None) -> _Listing:
    """The images of a folder and of everything below it, without the folders.

    Each real folder is entered once, and `within` never: a link back to a parent neither loops nor brings in other classes.
    """
    found = _Listing([], [], [])
    seen = {_identity(within)} if within else set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        here = _listing(folder)
        if _identity(folder) not in seen:
            seen.add(_identity(folder))
            found.images.extend(here.images)
            found.others.extend(here.others)
            waiting.extend(reversed(here.folders))
    return found


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
