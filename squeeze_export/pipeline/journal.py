"""The finished shards of a validation as files, so that one that was stopped goes on, and ends in the same figures to the digit.

A folder holds `validation.json`, which tells what is validated, and a safetensors file for each shard: what `shards.Shard` holds.
Each is written whole or not at all, so a killed process costs the shards that it had not finished.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from squeeze_export.documents import Schema
from squeeze_export.errors import BadInput
from squeeze_export.files import make_folder, read_bounded, write_bytes
from squeeze_export.graph.table import arrays_sha256
from squeeze_export.images.stream import ImageStream
from squeeze_export.measure.accuracy import ANSWER, COMPARED
from squeeze_export.pipeline.sessions import Key
from squeeze_export.pipeline.shards import IMAGE, Shard, shown_name

NAME = "validation.json"
MAX_SHARD_BYTES = 1 << 30
_HEADER = "squeeze_export_shard"


@dataclass(frozen=True)
class JournalFile:
    """One file that is validated.

    Attributes:
        sha256: of the file.
        runtime: that runs it.
        device: where.
        threads: of its session.
        kernels: as the runtime tells them.
    """

    sha256: str
    runtime: str
    device: str
    threads: int
    kernels: str


@dataclass(frozen=True)
class Validation:
    """What is validated: shards of two of these have nothing to do with each other.

    Attributes:
        schema_version: of this document.
        reference_sha256: of the float graph.
        files: in the order in which they were named.
        image_count: files of the image set.
        shard_images: images a shard.
        emulated_images: images for sessions that emulate a device.
        calibration_sha256: of the hashes of the files that must not be among the images.
        tools: versions of the packages that compute.
        cpu: `shards.cpu_kind`.
    """

    schema_version: int
    reference_sha256: str
    files: tuple[JournalFile, ...]
    image_count: int
    shard_images: int
    emulated_images: int
    calibration_sha256: str
    tools: Mapping[str, str]
    cpu: str


SCHEMA = Schema(Validation, "journal", 1, {})

_WORDS = {
    "reference_sha256": "another reference",
    "files": "other files",
    "image_count": "other images",
    "shard_images": "another --shard-images",
    "emulated_images": "another --emulated-images",
    "calibration_sha256": "another table",
    "tools": "other versions of the tools",
    "cpu": "a CPU of another kind",
}


class Journal:
    """A folder of finished shards.

    Args:
        folder: created if it is not there.
        validation: what they belong to.
        keys: of the sessions, in the order of `validation.files`.

    Raises:
        BadInput: the folder holds another validation or something else, or cannot be written.
    """

    def __init__(self, folder: Path, validation: Validation, keys: Sequence[Key]) -> None:
        self._folder, self._keys = folder, tuple(keys)
        self._seals: dict[int, str] = {}
        make_folder(folder)
        path = folder / NAME
        if path.exists():
            _check_same(folder, SCHEMA.read(path), validation)
        elif any(folder.iterdir()):
            raise BadInput(f"the folder `{folder}` holds no validation to go on with", hint="--resume with a new folder")
        else:
            SCHEMA.write(validation, path)

    def read(self, start: int, stream: ImageStream) -> Shard | None:
        """The shard that begins at a place of the set; None if it is not finished, or its images have changed since.

        Raises:
            BadInput: its file is damaged.
        """
        self._seals[start] = seal(stream, times=True)
        path = self._path(start)
        if not path.exists():
            return None
        try:
            shard, found = _shard(read_bounded(path, MAX_SHARD_BYTES, "a shard"), start, self._keys)
        except (safetensors.SafetensorError, LookupError, TypeError, ValueError, AttributeError) as err:
            raise BadInput(f"`{path}` is damaged: {err}", hint="delete it: its images are then compared again") from err
        return shard if found == self._seals[start] and len(shard.images) == len(stream.image_set.files) else None

    def write(self, shard: Shard) -> None:
        """Keeps a shard that `read` was asked for.

        Raises:
            BadInput: it cannot be written.
        """
        write_bytes(self._path(shard.start), _bytes(shard, self._seals.pop(shard.start), self._keys))

    def _path(self, start: int) -> Path:
        return self._folder / f"shard-{start:09}.safetensors"


def seal(stream: ImageStream, *, times: bool) -> str:
    """SHA-256 of the names, labels and sizes of a shard's files, and of when they were changed: what differs if the files do.

    Args:
        stream: the shard.
        times: whether the times count, which not every shared file system shows alike.
    """
    image_set, digest = stream.image_set, hashlib.sha256()
    labels = image_set.labels or (-1,) * len(image_set.files)
    for file, label in zip(image_set.files, labels, strict=True):
        try:
            status = os.stat(file)
            state = [status.st_size, status.st_mtime_ns if times else 0]
        except OSError:
            state = []
        digest.update(json.dumps([shown_name(file, image_set.root), label, *state]).encode())
    return digest.hexdigest()


def _check_same(folder: Path, there: Validation, here: Validation) -> None:
    for field in fields(Validation):
        if getattr(there, field.name) != getattr(here, field.name):
            message = f"the shards in `{folder}` are of {_WORDS.get(field.name, field.name)} than this validation"
            raise BadInput(message, hint="--resume with a new folder")


def _bytes(shard: Shard, files_seal: str, keys: Sequence[Key]) -> bytes:
    arrays: dict[str, Any] = {"images": shard.images, "reference": shard.reference, "first": shard.first}
    arrays |= {f"answers.{index}": shard.answers[key] for index, key in enumerate(keys) if key in shard.answers}
    plain = {name: np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8) for name, array in arrays.items()}
    header = {
        "version": SCHEMA.version,
        "start": shard.start,
        "reasons": shard.reasons,
        "varies": shard.varies,
        "cpu": shard.cpu,
        "seal": files_seal,
        "sha256": arrays_sha256(plain),
    }
    return safetensors.numpy.save(plain, {_HEADER: json.dumps(header)})


def _shard(data: bytes, start: int, keys: Sequence[Key]) -> tuple[Shard, str]:
    """What `_bytes` wrote; any of the errors that `read` catches if it is something else."""
    plain = safetensors.numpy.load(data)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_HEADER])
    if header["version"] != SCHEMA.version or header["start"] != start:
        raise ValueError("it is of another version or place")
    if header["sha256"] != arrays_sha256(plain):
        raise ValueError("it does not match its checksum")
    answers = {key: plain[f"answers.{index}"].view(COMPARED) for index, key in enumerate(keys) if f"answers.{index}" in plain}
    images, reference = plain["images"].view(IMAGE), plain["reference"].view(ANSWER)
    if {len(records) for records in (reference, *answers.values())} != {len(images)}:
        raise ValueError("its parts do not fit each other")
    reasons = tuple(map(str, header["reasons"]))
    first = plain["first"].view(np.float32)
    return Shard(start, images, reference, answers, reasons, first, bool(header["varies"]), str(header["cpu"])), str(header["seal"])
