"""What stands beside a report on its page: pictures of the images that flipped, an analysis, a gate's result, older reports."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import ImageOps

from squeeze_export import demo
from squeeze_export.documents import read_as, read_strict
from squeeze_export.errors import BadInput
from squeeze_export.files import read_bounded
from squeeze_export.gate.results import SCHEMA as GATE
from squeeze_export.gate.results import Check
from squeeze_export.images.calibration import CalibrationImages, calibration_folders
from squeeze_export.images.preprocess import BrokenImage, decode, read_image_bytes
from squeeze_export.pipeline.job import Job
from squeeze_export.report.figures import LayerError
from squeeze_export.report.flips import MOST_SHOWN, FlippedImage, flips_of
from squeeze_export.report.html import Beside, Judgement
from squeeze_export.results import SCHEMA, Report, report_sha256

ANALYSIS = "analysis.json"
GATE_RESULT = "gate.json"
MOST_REPORTS = 500
"""Files that a history may have."""
MOST_REPORT_BYTES = 64_000_000
"""Of each; one of 50,000 images has less than a tenth."""
_SIDE_PX = 128
_JPEG_QUALITY = 72


def beside_of(report: Report, folder: Path, images: Path | None = None, history: Sequence[Report] = ()) -> Beside:
    """What the page of a report in a folder shows beside it.

    Args:
        report: of which.
        folder: where it lies: an `analysis.json` of the same integers and a `gate.json` that judged it are found there.
        images: the folder that its images lie in, or a manifest there; None shows no pictures.
        history: as `read_history` gives it.

    Raises:
        BadInput: the answers in the report do not fit each other.
    """
    pictures = {} if images is None else pictures_of(flips_of(report)[:MOST_SHOWN], images if images.is_dir() else images.parent)
    return Beside(pictures, layer_errors(report, folder / ANALYSIS), tuple(history), judgement(report, folder / GATE_RESULT))


def images_folder(job: Job) -> Path | None:
    """The folder of the images that a job compares on, below which their names in the report are."""
    if isinstance(job.calib, CalibrationImages):
        path = job.eval or job.calib.stream.image_set.root
    elif job.eval is None and not job.calib:
        return demo.evaluation_folder() if job.weights is None else None
    else:
        path = job.eval or calibration_folders(job.calib or ())[0].path
    return path if path.is_dir() else path.parent


def pictures_of(flips: Sequence[FlippedImage], folder: Path) -> dict[int, bytes]:
    """A JPEG of at most 128 px for each image whose file is still the one that was measured: its hash tells.

    Args:
        flips: with their files' names, which may be a stranger's: one that leads out of the folder is left out.
        folder: where the files are.

    Returns:
        By `FlippedImage.index`.
    """
    found = {}
    for flip in flips:
        name = PurePosixPath(flip.file)
        if name.is_absolute() or ".." in name.parts or "\0" in flip.file:
            continue
        try:
            data = read_image_bytes(folder / name)
            if int(hashlib.sha256(data).hexdigest()[:16], 16) >> 1 != flip.sha63:
                continue
            picture = ImageOps.fit(decode(io.BytesIO(data), name), (_SIDE_PX, _SIDE_PX))
        except BrokenImage:
            continue
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=_JPEG_QUALITY, optimize=True)
        found[flip.index] = file.getvalue()
    return found


def layer_errors(report: Report, path: Path) -> tuple[LayerError, ...]:
    """Each layer's shares of the error, from an `analysis.json` of the same integers; empty without one."""
    if not path.is_file():
        return ()
    try:
        document = read_strict(path, "an analysis")
        told = read_as(Mapping[str, Any], document, "analysis")
        own, other = report.calibration, read_as(Mapping[str, Any], told.get("calibration"), "analysis", "calibration")
        if own.get("table_sha256") is None or own.get("table_sha256") != other.get("table_sha256"):
            return ()
        kept = ("name", "weights_share", "output_share")
        layers = read_as(tuple[Mapping[str, Any], ...], told.get("layers"), "analysis", "layers")
        return tuple(read_as(LayerError, {key: layer[key] for key in kept if key in layer}, "analysis") for layer in layers)
    except BadInput:  # another tool's, or of another time: the page is whole without it
        return ()


def judgement(report: Report, path: Path) -> Judgement | None:
    """What a `gate.json` says, if it judged this report."""
    if not path.is_file():
        return None
    try:
        found = GATE.read(path)
    except BadInput:  # as above
        return None
    if found.report_sha256 != report_sha256(report):
        return None
    return Judgement(found.state, tuple((check.state, _sentence(check)) for check in found.checks), found.created)


def _sentence(check: Check) -> str:
    needs = f" ({check.needs} would decide)" if check.needs else ""
    return f"{check.row}: {check.message}{needs}" if check.row else f"{check.message}{needs}"


def _same_network(one: Report, other: Report) -> bool:
    """Whether their networks have one name and, as far as both tell, as many classes; a checkpoint changes with each training."""
    names = [report.network.get("name") for report in (one, other)]
    counts = {report.network.get("class_count") for report in (one, other)} - {None}
    return names[0] == names[1] and len(counts) < 2


def read_history(folder: Path, report: Report) -> tuple[tuple[Report, ...], int]:
    """The reports in a folder that are of the same network and not newer, oldest first, and how many files were left out.

    Args:
        folder: `.json` files, also those in folders directly below it.
        report: the newest.

    Raises:
        BadInput: no such folder, more than `MOST_REPORTS` files, or no such report in it.
    """
    if not folder.is_dir():
        raise BadInput(f"`{folder}` is no folder", hint="--history DIR, a folder of older report.json files")
    files = sorted({*folder.glob("*.json"), *folder.glob("*/*.json")})
    if len(files) > MOST_REPORTS:
        raise BadInput(f"`{folder}` holds {len(files):,} JSON files, and a history may have {MOST_REPORTS}")
    found, others = [], 0
    for file in files:
        try:
            older = SCHEMA.from_json(json.loads(read_bounded(file, MOST_REPORT_BYTES, "a report of a history")))
        except (BadInput, ValueError, RecursionError):  # a sidecar, another tool's file
            others += 1
            continue
        if older == report:
            continue
        if _same_network(older, report) and older.created <= report.created:
            found.append(older)
        else:
            others += 1
    if not found:
        raise BadInput(
            f"`{folder}` holds no older report of `{report.network.get('name', 'this network')}`",
            hint="keep each report.json of that network there, under a name of its own",
        )
    return tuple(sorted(found, key=lambda older: older.created)), others
