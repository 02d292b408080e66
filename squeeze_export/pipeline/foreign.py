"""Files of other tools, which have no sidecar: what they take and give is read from the file, and the rest is the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from squeeze_export.core import TORCHVISION, Artifact, Assumption, Audit, Ending, Foreign, Preprocess, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.files import Content, content_sha256, content_size, read_content, reading
from squeeze_export.formats import format_named
from squeeze_export.formats.audit import audit
from squeeze_export.formats.contents import Contents
from squeeze_export.graph.quantized import FP16, FP32, INT8, INT16X8, W8
from squeeze_export.pipeline.export import format_of, read_artifact
from squeeze_export.pipeline.sidecar_document import sidecar_path
from squeeze_export.registry import TARGETS

LEAST_SPAN = 0.5
"""The least share of the reference's input that a quantized input must be able to hold: another one is for other numbers."""

_ENDINGS: Mapping[str, Ending] = {
    "softmax": "softmax",
    "com.microsoft:qlinearsoftmax": "softmax",
    "logsoftmax": "log-softmax",
    "log_softmax": "log-softmax",
    "sigmoid": "sigmoid",
    "logistic": "sigmoid",
    "com.microsoft:qlinearsigmoid": "sigmoid",
}
_UNCHANGED = (
    "cast", "convert", "dequantize", "dequantizelinear", "fakequantize", "flatten", "identity", "quantize", "quantizelinear",
    "reshape", "squeeze",
)  # fmt: skip
"""Kinds that do not change what an output is. As all of these: in lower case."""


def open_files(
    files: Sequence[Path], preprocess: Preprocess | None, *, crop_px: int | tuple[int, int] | None = None
) -> tuple[list[Artifact], tuple[Assumption, ...]]:
    """Opens files: ours by their sidecars, others by what is in them.

    Args:
        files: exported by this tool or another.
        preprocess: of the numbers that the others take; None if their values do not matter, as for a time.
        crop_px: side of the input, or height and width, of files that leave it free; only without `preprocess`.

    Returns:
        The artifacts, and what was assumed about the others.

    Raises:
        BadInput: see `read_artifact` and `foreign_artifact`.
    """
    artifacts = [
        read_artifact(path) if sidecar_path(path).exists() else foreign_artifact(path, preprocess, crop_px=crop_px)
        for path in files
    ]
    others = [artifact for artifact in artifacts if artifact.foreign is not None and preprocess is not None]
    return artifacts, tuple(map(_assumption, others))


def foreign_artifact(path: Path, preprocess: Preprocess | None, *, crop_px: int | tuple[int, int] | None = None) -> Artifact:
    """Opens a file of another tool. Layout, dtype, scales and output are the file's; its scheme is what its audit finds.

    Args:
        path: an ONNX or TFLite file, or an OpenVINO network's `.xml`.
        preprocess: of the numbers that its input takes; None if their values do not matter.
        crop_px: side of the input, or height and width, if the file leaves it free; only without `preprocess`.

    Raises:
        BadInput: no such file; a file of this tool without its sidecar; a format whose other files cannot be run; no image
            classifier, or one of other sizes, channels or numbers than `preprocess`.
        Unavailable: the package that reads the format is not installed.
    """
    name = format_of(path)
    if name not in TARGETS or name in ("coreml", "coreai"):
        raise BadInput(
            f"`{path.name}` has no sidecar, and of {name} files only this tool's own are run", hint="export it with this tool"
        )
    module = format_named(name)
    contents = module.read(path)
    if contents.scheme:
        raise BadInput(
            f"`{path}` is a file of this tool, and `{sidecar_path(path).name}` is not beside it",
            hint="export it again with this tool",
        )
    source, result = contents.classifier(path, halves=True)
    if preprocess is None:
        preprocess = _any_numbers(path, source, crop_px)
    else:
        _check_input(path, source, preprocess)
    ending = _ending(contents)
    found = audit(contents, module.POLICY)
    content = artifact_content(path)
    return Artifact(
        path,
        name,
        _scheme(contents, found),
        content_sha256(content),
        content_size(content),
        source,
        result,
        audit=found,
        foreign=Foreign(preprocess, ending),
    )


def artifact_content(path: Path) -> Content:
    """What the hash of an exported file, ours or not, is of: the file, a folder, or OpenVINO's two files.

    Raises:
        BadInput: as of `files.read_content`.
        OSError: it cannot be read.
    """
    if path.suffix != ".xml":
        return read_content(path)
    with reading(path):
        return {file.name: file.read_bytes() for file in (path, path.with_suffix(".bin"))}


def _any_numbers(path: Path, source: TensorSpec, crop_px: int | tuple[int, int] | None) -> Preprocess:
    """torchvision's preprocessing at the size of the file's input."""
    sides = dict(zip(source.layout, source.shape, strict=True))
    free = crop_px if isinstance(crop_px, tuple) else (crop_px, crop_px)
    height, width = (side if isinstance(side := sides[name], int) else given for name, given in zip("HW", free, strict=True))
    if height is None or width is None:
        raise BadInput(f"`{path.name}` leaves the size of its input free", hint="--crop PX or --crop HxW")
    found = replace(TORCHVISION, resize_px=max(height, width), crop_px=height, width_px=None if width == height else width)
    return found if sides["C"] == 3 else replace(found, channel_order="gray", mean=found.mean[:1], std=found.std[:1])


def _check_input(path: Path, source: TensorSpec, preprocess: Preprocess) -> None:
    """Refuses a file that cannot take what `preprocess` gives."""
    height, width, channels = preprocess.input_size
    sides = dict(zip(source.layout, source.shape, strict=True))
    wanted = {"H": height, "W": width, "C": channels}
    if sides["C"] != channels:
        raise BadInput(f"`{path.name}` takes images of `{sides['C']}` channels, the reference those of `{channels}`")
    if any(isinstance(sides[name], int) and sides[name] != wanted[name] for name in "HW"):
        size = f"{sides['H']}x{sides['W']}"
        raise BadInput(
            f"`{path.name}` takes images of `{size}` px, the reference those of `{height}x{width}`", hint=f"--crop {size}"
        )
    if source.scale is None or source.scale == 1:
        return
    limits = np.iinfo(source.dtype)
    least, most = ((limit - (source.zero_point or 0)) * source.scale for limit in (limits.min, limits.max))
    pairs = [(-mean / std, (255 - mean) / std) for mean, std in zip(preprocess.mean, preprocess.std, strict=True)]
    low, high = min(low for low, _ in pairs), max(high for _, high in pairs)
    if min(high, most) - max(low, least) < LEAST_SPAN * max(high - low, most - least):
        raise BadInput(
            f"`{path.name}` takes numbers from `{least:.3g}` to `{most:.3g}`, the reference those from `{low:.3g}` to `{high:.3g}`",
            hint="--mean and --std as the file was made for",
        )


def _ending(contents: Contents) -> Ending:
    tensor, seen = contents.outputs[0], 0
    while (maker := contents.maker(tensor)) is not None and seen <= len(contents.operators):
        kind = maker.kind.lower()
        if kind not in _UNCHANGED or not maker.inputs:
            return _ENDINGS.get(kind, "logits")
        tensor, seen = maker.inputs[0], seen + 1
    return "logits"


def _scheme(contents: Contents, found: Audit) -> str:
    """The scheme that comes nearest to what the file holds."""
    bytes_of = {dtype: size for dtype, size in found.weight_bytes.items() if dtype not in ("int32", "int64", "bool")}
    largest = max(bytes_of, key=lambda dtype: bytes_of[dtype], default="float32")
    if largest.startswith(("int", "uint")):
        wide = any(tensor.dtype == "int16" for operator in contents.operators for tensor in operator.outputs)
        return W8.name if found.violations else INT16X8.name if wide else INT8.name
    return FP16.name if largest == "float16" else FP32.name


def _assumption(artifact: Artifact) -> Assumption:
    """What the file itself does not tell."""
    assert artifact.foreign is not None
    preprocess, spec = artifact.foreign.preprocess, artifact.input
    raw = spec.scale == 1
    numbers = ["raw pixels" if raw else "pixels", preprocess.channel_order.upper()]
    if not raw:
        numbers += [f"{name} {','.join(f'{value:g}' for value in getattr(preprocess, name))}" for name in ("mean", "std")]
    value = f"{', '.join(numbers)}, as {spec.dtype} {spec.layout}"
    return Assumption(f"input of {artifact.path.name}", value, f"{artifact.path.name} takes what the reference takes")
