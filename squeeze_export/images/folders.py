"""Finds the images that a user points at: a plain folder, one folder per class, or a CSV manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from squeeze_export.errors import BadInput
from squeeze_export.images.labels import match_folders
from squeeze_export.images.manifest import UNKNOWN, read_manifest
from squeeze_export.images.names import shown

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")

_KINDS_HINT = "a folder of images, a folder with one sub-folder per class, or a `.csv` manifest"


@dataclass(frozen=True)
class ImageSet:
    """Images found, not yet read.

    Attributes:
        root: the folder; of a manifest, the folder it lies in.
        files: sorted by their path below `root`, part by part, so the order is the same on every machine.
        labels: class index per file, -1 where unknown; None where nothing is known of any.
        class_source: how the labels were matched, for the report.
    """

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    class_source: str


def open_images(path: Path, *, class_count: int, labels: tuple[str, ...] = ()) -> ImageSet:
    """Finds the images to evaluate on, with their classes.

    - a folder with images in it: unlabelled;
    - a folder with sub-folders: each holds one class, searched to any depth; matched by name where there are `labels`, in
      alphabetical order where there are none and as many folders as classes;
    - a `.csv` file: see `manifest`.

    Hidden files, and files whose suffix is not in `SUFFIXES`, are left out. Links are followed.

    Args:
        path: the folder or manifest.
        class_count: classes of the network.
        labels: class names in index order, one per class, or none.

    Raises:
        BadInput: missing, without images, images both beside and in sub-folders, or classes that cannot be matched.
    """
    if _is_manifest(path):
        return _image_set(path.parent, *read_manifest(path, class_count=class_count, labels=labels))
    top, folders = _listing(path)
    inside = {folder: _search(folder, within=path) for folder in folders}
    filled = [folder for folder in folders if inside[folder]]
    if top and filled:
        raise BadInput(
            f"{shown(path)} holds images both beside and inside sub-folders such as {shown(filled[0].name)}",
            hint="put every image into the folder of its class, or leave none in sub-folders",
        )
    if not filled:
        return _image_set(path, dict.fromkeys(top, UNKNOWN), "none: a folder without sub-folders")
    classes = match_folders([f.name for f in filled], [f.name for f in folders], class_count, labels)
    files = {file: classes[folder.name] for folder in filled for file in inside[folder]}
    source = "folder names, matched to the labels" if labels else "folders in alphabetical order, one per class"
    return _image_set(path, files, source)


def open_calibration(path: Path) -> ImageSet:
    """Finds the images to calibrate on: those of a folder and everything below it, or of a `.csv` manifest; labels are ignored.

    Raises:
        BadInput: missing, or without images.
    """
    if _is_manifest(path):
        return _image_set(path.parent, *read_manifest(path))
    return _image_set(path, dict.fromkeys(_search(path), UNKNOWN), "labels ignored")


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
    return ImageSet(sets[0].root, files, None, "labels ignored"), owners


def _image_set(root: Path, found: dict[Path, int], source: str) -> ImageSet:
    """Sorts what was found.

    Raises:
        BadInput: nothing was found.
    """
    if not found:
        raise BadInput(f"{shown(root)} holds no images", hint=f"looked for {' '.join(SUFFIXES)}")
    files = tuple(sorted(found, key=lambda file: file.parts))
    labels = tuple(found[file] for file in files)
    return ImageSet(root, files, labels if any(label != UNKNOWN for label in labels) else None, source)


def _is_manifest(path: Path) -> bool:
    """True for a `.csv` file, False for a folder.

    Raises:
        BadInput: neither.
    """
    # os.path, not Path.is_dir: that raises where a folder on the way must not be entered.
    if os.path.isdir(path):
        return False
    if not os.path.exists(path):
        raise BadInput(f"{shown(path)} does not exist", hint=_KINDS_HINT)
    if path.suffix.lower() != ".csv" or not os.path.isfile(path):
        raise BadInput(f"{shown(path)} is neither a folder nor a `.csv` manifest", hint=_KINDS_HINT)
    return True


def _is_image(entry: os.DirEntry[str]) -> bool:
    """True for a file with an image's suffix. A dead link counts: it is a broken image, to be named, not one to overlook."""
    if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
        return False
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images and the folders directly in a folder, each sorted, without hidden ones.

    Raises:
        BadInput: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as err:
        raise BadInput(f"{shown(folder)} cannot be read ({err.strerror})", hint="check its permissions") from err
    images = [folder / entry.name for entry in entries if _is_image(entry)]
    return images, [folder / entry.name for entry in entries if os.path.isdir(entry.path)]


def _search(root: Path, within: Path | None = None) -> list[Path]:
    """The images of a folder and of everything below it.

    Each real folder is entered once, and `within` never: a link back to a parent neither loops nor brings in other classes.
    """
    found: list[Path] = []
    seen = {_identity(within)} if within else set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        images, folders = _listing(folder)
        if _identity(folder) not in seen:
            seen.add(_identity(folder))
            found.extend(images)
            waiting.extend(reversed(folders))
    return found


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
