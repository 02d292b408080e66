"""`verify`: is a file still what was exported, and does it answer here what it must?

Nothing but the file's runtime is needed; what a missing package would have checked is named. A changed file is never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.compilers import Compiler
from squeeze_export.core import Artifact, FloatArray, Progress, Session, silent
from squeeze_export.errors import BadInput, NotInstalled, Refused, SqueezeExportError, Unavailable
from squeeze_export.files import Content, content_sha256, content_size, read_content
from squeeze_export.formats import Format, format_named
from squeeze_export.formats.audit import audit
from squeeze_export.formats.contents import Contents
from squeeze_export.graph.golden import Golden, golden_logits, golden_pixels, pixels_sha256
from squeeze_export.graph.quantized import SCHEMES
from squeeze_export.graph.table import table_difference
from squeeze_export.pipeline.export import metadata_of
from squeeze_export.pipeline.sidecar_document import (
    PIECE_BYTES,
    SidecarDocument,
    constant_hashes,
    piece_hashes,
    sidecar_difference,
    sidecar_path,
)
from squeeze_export.registry import COMPILERS, FORMATS, TARGETS, registered, usable
from squeeze_export.runtimes import added_runtimes, runtime_named
from squeeze_export.targets import target_named

TABLE_SUFFIX = ".table"
_NAMED = 4
"""Regions that a line names; of more it tells the number."""
_HINT = "name an exported file, a table, or a folder of them"


@dataclass(frozen=True)
class Verified:
    """What is known of one product.

    Attributes:
        file: its path; that of a sidecar whose product is not there.
        checked: what was compared and is as it was: `sidecar`, `bytes` ...
        differences: what is not, one sentence each.
        unchecked: what could not be compared on this machine, and why.
        lacks: what an earlier version did not write, or nobody can tell of such a file.
    """

    file: str
    checked: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


def verify(path: Path, progress: Progress = silent) -> tuple[Verified, ...]:
    """Compares a product with its sidecar and its golden outputs, or all products of a folder.

    Args:
        path: an exported file or folder (`.mlpackage`, `.openvino`), a table, or a folder with several of these.
        progress: told of every product.

    Returns:
        One for each product, and for each sidecar without one, sorted by name.

    Raises:
        BadInput: there is no such path, no product in it, or no sidecar of the one file.
    """
    suffixes = _suffixes()
    if not path.exists():
        raise BadInput(f"`{path}` does not exist", hint=_HINT)
    if path.is_dir() and not path.name.endswith(suffixes):
        return _of_folder(path, suffixes, progress)
    if path.name.endswith(f"{TABLE_SUFFIX}"):
        return (_of_table(path),)
    if not path.name.endswith(suffixes):
        raise BadInput(f"`{path}` is no file that this tool writes", hint=_HINT)
    if not sidecar_path(path).exists():
        raise BadInput(f"`{path}` has no sidecar `{sidecar_path(path).name}`: nothing tells what it should be", hint=_HINT)
    return (_of_file(path),)


def _suffixes() -> tuple[str, ...]:
    formats, compilers = usable(FORMATS, "format", Format), usable(COMPILERS, "compiler", Compiler)
    return tuple(found.SUFFIX for found in (*formats.values(), *compilers.values()))


def _of_folder(folder: Path, suffixes: tuple[str, ...], progress: Progress) -> tuple[Verified, ...]:
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    products = [name for name in names if name.endswith((*suffixes, TABLE_SUFFIX))]
    sidecars = [name for name in names if name.endswith(tuple(f"{suffix}.json" for suffix in suffixes))]
    orphans = [name for name in sidecars if name.removesuffix(".json") not in names]
    if not products and not orphans:
        raise BadInput(f"`{folder}` holds nothing that this tool writes", hint=_HINT)
    found = []
    for done, name in enumerate(products):
        progress("verifying", done, len(products))
        path = folder / name
        if name.endswith(TABLE_SUFFIX):
            found.append(_of_table(path))
        elif f"{name}.json" in sidecars:
            found.append(_of_file(path))
        else:
            found.append(Verified(str(path), differences=(f"`{name}` has no sidecar `{name}.json`",)))
    progress("verifying", len(products), len(products))
    for name in orphans:
        missing = f"`{name}` is the sidecar of `{name.removesuffix('.json')}`, which is not there"
        found.append(Verified(str(folder / name), differences=(missing,)))
    return tuple(sorted(found, key=lambda one: one.file))


def _of_table(path: Path) -> Verified:
    wrong, lacks = table_difference(path)
    if wrong:
        return Verified(str(path), differences=(wrong,))
    header = () if lacks else ("checksum of the header",)
    return Verified(str(path), ("checksum of the arrays", *header, "bytes"), lacks=_some(lacks))


def _some(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


class _Findings:
    """Collects what is found of one file."""

    def __init__(self, path: Path) -> None:
        self.path, self.checked, self.differences = path, list[str](), list[str]()
        self.unchecked, self.lacks = list[str](), list[str]()

    def compare(self, what: str, faults: Sequence[str]) -> None:
        """Something was compared: it is as it was, or these sentences tell why not."""
        self.differences += [f"`{self.path.name}`: {fault}" for fault in faults]
        self.checked += [] if faults else [what]

    @property
    def verified(self) -> Verified:
        lists = (self.checked, self.differences, self.unchecked, self.lacks)
        return Verified(str(self.path), *(tuple(dict.fromkeys(each)) for each in lists))


def _of_file(path: Path) -> Verified:
    found = _Findings(path)
    sidecar, wrong, lacks = sidecar_difference(sidecar_path(path))
    found.differences += _some(wrong)
    found.lacks += _some(lacks)
    if sidecar is None:
        return found.verified
    found.checked += [] if wrong or lacks else ["sidecar"]
    try:
        content = read_content(path)
    except (BadInput, OSError) as err:
        found.compare("bytes", [f"it cannot be read: {err}"])
        return found.verified
    if sidecar.sha256 != content_sha256(content) or sidecar.size_bytes != content_size(content):
        found.compare("bytes", [_changed(path, content, sidecar)])
        return found.verified
    found.checked.append("bytes")
    if sidecar.target in registered(COMPILERS, "compiler"):
        found.lacks.append("what a compiler made for a chip cannot be looked into, and has no golden outputs")
    elif sidecar.target not in registered(TARGETS, "target"):
        found.compare("target", [f"its sidecar names the target `{sidecar.target}`, which there is none of"])
    else:
        _look_inside(found, sidecar)
        _ask(found, sidecar)
    return found.verified


# ---------------------------------------------------------------------------------------------------- a changed file


def _changed(path: Path, content: Content, sidecar: SidecarDocument) -> str:
    """Where a file differs from what its sidecar tells, as closely as can be told."""
    told = "its bytes differ from the sidecar's SHA-256"
    if sidecar.size_bytes != content_size(content):
        told += f", it has {content_size(content):,} bytes instead of {sidecar.size_bytes:,}"
    regions = [*_changed_pieces(path, content, sidecar), *_changed_constants(path, sidecar)]
    return f"{told}: {'; '.join(regions)}" if regions else told


def _changed_pieces(path: Path, content: Content, sidecar: SidecarDocument) -> list[str]:
    if not sidecar.pieces:
        return []
    now, regions = piece_hashes(content, sidecar.file), []
    for name in sorted({*now, *sidecar.pieces}):
        before, after = sidecar.pieces.get(name), now.get(name)
        inside = f" of `{name}`" if path.is_dir() else ""
        if before is None or after is None:
            regions.append(f"`{name}` is {'new' if before is None else 'not there'}")
            continue
        places = [at for at, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]]
        if places:
            size = content_size(content if isinstance(content, bytes) else content[name])
            spans = [f"{at * PIECE_BYTES:,} to {min(size, (at + 1) * PIECE_BYTES) - 1:,}" for at in places]
            regions.append(f"bytes {_listed(spans)}{inside}")
    return regions


def _changed_constants(path: Path, sidecar: SidecarDocument) -> list[str]:
    """Names of stored tensors that are others now; nothing where the format's reader cannot tell."""
    if not sidecar.constants:
        return []
    try:
        now = constant_hashes(_module(sidecar.target).read(path))
    except SqueezeExportError as err:
        return [f"it can no longer be read ({err.message})"] if isinstance(err, BadInput) else []
    names = [name for name in sorted({*now, *sidecar.constants}) if now.get(name) != sidecar.constants.get(name)]
    return [f"the constant{'s' if len(names) > 1 else ''} {_listed([f'`{name}`' for name in names])}"] if names else []


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return f"{', '.join(texts[:_NAMED])}{more}"


# ------------------------------------------------------------------------------------------------------ what is inside


def _module(target: str) -> Format:
    return format_named(target_named(target).FORMAT or target)


def _look_inside(found: _Findings, sidecar: SidecarDocument) -> None:
    """The proof of INT8, inputs and outputs, and the metadata."""
    try:
        module = _module(sidecar.target)
        contents, specs = module.read(found.path), module.describe(found.path)
    except Unavailable as err:
        found.unchecked.append(f"what is inside: {err.message}")
        return
    except BadInput as err:
        found.compare("what is inside", [err.message])
        return
    found.compare("inputs and outputs", _others(sidecar, {"input": specs[0], "output": specs[1]}))
    found.compare("metadata", _metadata_faults(contents, sidecar))
    now, before = audit(contents, module.POLICY), sidecar.audit
    kept = {"operators": dict(now.operators), "weight_bytes": dict(now.weight_bytes)}
    faults = ["its sidecar has no audit"] if before is None else _others(before, kept)
    scheme = SCHEMES.get(sidecar.scheme)
    if scheme is None:
        faults.append(f"its sidecar names the scheme `{sidecar.scheme}`, which there is none of")
    elif scheme.integer and not _vendors(sidecar):
        faults += [f"it is not the integer network it claims to be: {fault}" for fault in (*now.violations, *now.untold)[:1]]
    found.compare("proof of INT8" if scheme is not None and scheme.integer and not _vendors(sidecar) else "audit", faults)


def _vendors(sidecar: SidecarDocument) -> bool:
    """Whether a vendor's tool made the file: nobody promised what is in it."""
    return "method" in sidecar.provenance


def _others(told: object, now: Mapping[str, object]) -> list[str]:
    before = {name: getattr(told, name) for name in now}
    return [f"`{name}` is {now[name]}, its sidecar tells {before[name]}" for name in now if now[name] != before[name]]


def _metadata_faults(contents: Contents, sidecar: SidecarDocument) -> list[str]:
    """Every entry of ours in the file must be what the sidecar tells."""
    told = metadata_of(sidecar.provenance)
    inside = {key: text for key, text in contents.metadata.items() if key.startswith("squeeze_export.")}
    if not inside and not _vendors(sidecar):
        return ["it has no metadata of this tool"]
    return [f"its metadata `{key}` is not what the sidecar tells" for key, text in inside.items() if told.get(key) != text]


# ------------------------------------------------------------------------------------------------------ golden outputs


def _ask(found: _Findings, sidecar: SidecarDocument) -> None:
    """Runs the file on the golden inputs."""
    told = sidecar.golden
    if told is None:
        found.lacks.append("it has no golden outputs")
        return
    artifact = Artifact(
        found.path,
        sidecar.target,
        sidecar.scheme,
        sidecar.sha256,
        sidecar.size_bytes,
        sidecar.input,
        sidecar.output,
        sidecar.provenance,
        sidecar.audit,
    )
    try:
        height, width, channels = map(int, artifact.pixel_shape[1:])
        pixels, expected = golden_pixels((height, width, channels)), golden_logits(told)
        if pixels_sha256(pixels) != told.pixels_sha256:
            raise ValueError("the pixels of its golden outputs are others")
        session = _opened(artifact)
        try:
            answers = session.infer(pixels)
            where = f"{session.runtime}, {session.kernels}"
        finally:
            session.close()
        found.compare(f"golden outputs ({where})", _answer_faults(answers, expected, told, artifact, where))
    except Unavailable as err:
        found.unchecked.append(f"golden outputs: {err.message}")
    except Refused as err:
        found.compare("golden outputs", [f"its runtime does not run it: {err.message}"])
    except ValueError as err:
        found.compare("golden outputs", [str(err)])


def _opened(artifact: Artifact) -> Session:
    """A session of the target's first runtime that is installed.

    Raises:
        Unavailable: none is.
    """
    missing = None
    for runtime in (*target_named(artifact.target).RUNTIMES, *added_runtimes(artifact.target)):
        try:
            return runtime_named(runtime).open_session(artifact, device="cpu", threads=1)
        except NotInstalled as err:  # noqa: PERF203 - a handful
            missing = missing or err
    raise missing or Unavailable(f"nothing here runs {artifact.target} files")


def _answer_faults(answers: FloatArray, logits: FloatArray, told: Golden, artifact: Artifact, where: str) -> list[str]:
    if answers.shape != logits.shape:
        return [f"it gives {answers.shape} numbers for its golden inputs instead of {logits.shape}"]
    expected, tolerance = _as_given(logits.astype(np.float64), told.tolerance, artifact.ending)
    apart = np.abs(answers - expected)
    if apart.max() <= tolerance:  # not so for NaN
        return []
    image, index = (int(at) for at in np.unravel_index(np.nan_to_num(apart, nan=np.inf).argmax(), apart.shape))
    most = f"up to {apart[image, index]:.4g} ({tolerance:.4g} allowed)"
    return [f"its golden outputs differ by {most}, in class {index} of input {image}, on {where}"]


def _as_given(logits: Any, tolerance: float, ending: str) -> tuple[Any, float]:
    """What a file with this ending makes of logits, and by how much it may be off: its largest slope times that of the logits."""
    if ending == "softmax":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True), tolerance / 2 + _PROBABILITY
    if ending == "sigmoid":
        return 1 / (1 + np.exp(-logits)), tolerance / 4 + _PROBABILITY
    return logits, tolerance


_PROBABILITY = 1e-4
"""By how much a runtime's own softmax or sigmoid may be off."""
