"""The export job: network or table -> file, proven before it gets its name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from squeeze_export import __version__
from squeeze_export.core import Artifact, Audit, EmitOptions, TensorSpec
from squeeze_export.errors import BadInput, Refused
from squeeze_export.files import Content, content_sha256, content_size, read_content, write_draft, write_files
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme
from squeeze_export.images.names import shown
from squeeze_export.measure.host import tool_versions
from squeeze_export.targets import TARGETS, target_named

MAX_SIDECAR_BYTES = 16_000_000


def export(
    network: Graph | QuantizedGraph, target: str, scheme: Scheme, out: Path, *, name: str, options: EmitOptions | None = None
) -> tuple[Artifact, Audit]:
    """Writes `<name>.<scheme><suffix>` and its sidecar into a folder.

    The file is opened again and audited before it gets its name: an int8 file that is not one never appears.

    Args:
        network: a `QuantizedGraph` for an integer scheme, else a `Graph`.
        target: a key of `targets.TARGETS`.
        scheme: how numbers are carried.
        out: an existing folder.
        name: first part of the file name.
        options: the outer form.

    Raises:
        BadInput: the target does not carry the scheme, the name is none for a file, or the folder cannot be written.
        Unavailable: the package that writes the format is missing.
        Refused: the file failed its audit.
    """
    module = target_named(target)
    if scheme.name not in module.SCHEMES:
        raise BadInput(f"{target} does not carry the scheme `{scheme.name}`", hint=f"it carries: {', '.join(module.SCHEMES)}")
    if scheme.integer != isinstance(network, QuantizedGraph):
        raise BadInput(f"the scheme `{scheme.name}` needs {'a quantized' if scheme.integer else 'a float'} graph")
    if not name or Path(name).name != name or not name.isprintable():
        raise BadInput(f"the network's name {shown(name)} is no file name")  # a stranger's table may say anything
    provenance = provenance_of(network, scheme, target)
    content = module.emit(network, scheme, options or EmitOptions(), metadata_of(provenance))
    return keep(content, out / f"{name}.{scheme.name}{module.SUFFIX}", target, scheme, provenance, network.labels)


def keep(
    content: Content,
    path: Path,
    target: str,
    scheme: Scheme,
    provenance: dict[str, Any],
    labels: tuple[str, ...],
    *,
    promised: bool = True,
) -> tuple[Artifact, Audit]:
    """Audits what was made, and gives it its name and its sidecar.

    Args:
        content: the file or folder.
        path: where it goes.
        target: a key of `targets.TARGETS`.
        scheme: how numbers are carried.
        provenance: into the sidecar.
        labels: likewise.
        promised: whether an integer file that its audit finds not to be one is refused; False for another tool's product,
            whose violations the sidecar then names.

    Raises:
        Refused: the file failed its audit.
        BadInput: the folder cannot be written.
    """
    module = target_named(target)
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
        draft = Path(folder) / path.name
        write_draft(draft, content)
        audit = module.audit(draft)
        if not scheme.integer:
            audit = replace(audit, violations=())  # a float file breaks no promise by holding floats
        source, result = module.describe(draft)
    if promised and audit.violations:
        more = f" (and `{len(audit.violations) - 1}` more)" if len(audit.violations) > 1 else ""
        raise Refused(f"the {target} file is not the integer network it claims to be: {audit.violations[0]}{more}")
    artifact = Artifact(path, target, scheme.name, content_sha256(content), content_size(content), source, result, provenance)
    sidecar = json.dumps(_sidecar(artifact, audit, labels), indent=1, ensure_ascii=False) + "\n"
    write_files({path: content, sidecar_path(path): sidecar.encode("utf-8", "backslashreplace")})
    return artifact, audit


def audit_file(path: Path) -> Audit:
    """What is inside a file of one of the targets, ours or another tool's, told apart by its ending.

    Raises:
        BadInput: no such file, or no target's ending.
    """
    if path.suffix == ".xml":  # how every other tool writes OpenVINO's two files
        if not path.exists():
            raise BadInput(f"`{path}` is not a file")
        return target_named("openvino").audit(path)
    for name in TARGETS:
        module = target_named(name)
        if path.suffix == module.SUFFIX:
            if not path.exists():
                raise BadInput(f"`{path}` is not a file")
            return module.audit(path)
    raise BadInput(
        f"`{path}` is no file of a target", hint=f"endings that are: {', '.join(target_named(n).SUFFIX for n in TARGETS)}, .xml"
    )


def sidecar_path(path: Path) -> Path:
    """`<file>.json` beside the file."""
    return path.with_name(f"{path.name}.json")


def read_artifact(path: Path) -> Artifact:
    """Opens an exported file by its sidecar.

    Raises:
        BadInput: no file, no sidecar, a sidecar that cannot be read, or a file that is not the one it describes.
    """
    return read_exported(path)[0]


def read_exported(path: Path) -> tuple[Artifact, Audit]:
    """As `read_artifact`, with the audit from the day of the export."""
    sidecar = sidecar_path(path)
    hint = "export it again with this tool"
    try:
        if sidecar.stat().st_size > MAX_SIDECAR_BYTES:
            raise BadInput(f"the sidecar `{sidecar}` is too large", hint=hint)
        values = json.loads(sidecar.read_text(encoding="utf-8"))
        content = read_content(path)
    except OSError as err:
        missing = err.filename or path
        raise BadInput(f"`{missing}` cannot be read: {err.strerror}", hint=hint) from err
    except (ValueError, RecursionError) as err:
        raise BadInput(f"the sidecar `{sidecar}` is damaged: {err}", hint=hint) from err
    try:
        if values["target"] not in TARGETS:
            raise ValueError(f"target {values['target']!r}")
        if values["sha256"] != content_sha256(content):
            raise BadInput(f"`{path}` is not the file that its sidecar describes (SHA-256 differs)", hint=hint)
        artifact = Artifact(
            path,
            values["target"],
            values["scheme"],
            values["sha256"],
            content_size(content),
            _spec(values["input"]),
            _spec(values["output"]),
            dict(values["provenance"]),
        )
        return artifact, _audit(values["audit"])
    except (KeyError, TypeError, ValueError) as err:
        raise BadInput(f"the sidecar `{sidecar}` is damaged: {err!r}", hint=hint) from err


def read_all_exported(paths: Sequence[Path]) -> tuple[list[Artifact], dict[Path, Audit]]:
    """The artifacts in the order of their paths, and each path's audit from the day of the export."""
    found = [read_exported(path) for path in paths]
    return [artifact for artifact, _ in found], {artifact.path: audit for artifact, audit in found}


def metadata_of(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Provenance as the formats' own metadata hold it: text by name."""
    return {
        f"squeeze_export.{key}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in provenance.items()
    }


def provenance_of(network: Graph | QuantizedGraph, scheme: Scheme, target: str) -> dict[str, Any]:
    """Where a file comes from: hashes, preprocessing, recipe, the versions of what wrote it."""
    found: dict[str, Any] = {
        "scheme": scheme.name,
        "checkpoint_sha256": network.checkpoint_sha256,
        "preprocess": json.loads(json.dumps(asdict(network.preprocess))),  # tuples become lists, as the sidecar reads back
        "versions": {"squeeze-export": __version__, **tool_versions(target_named(target).PACKAGES)},
    }
    if isinstance(network, QuantizedGraph):
        found["table_sha256"] = network.sha256
        found["recipe"] = str(network.provenance.get("recipe", ""))
        found["seed"] = network.provenance.get("seed", 0)
        if network.kept_float:
            found["kept_float"] = list(network.kept_float)
    return found


def _sidecar(artifact: Artifact, audit: Audit, labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "file": artifact.path.name,
        "target": artifact.target,
        "scheme": artifact.scheme,
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "input": asdict(artifact.input),
        "output": asdict(artifact.output),
        "labels": list(labels),
        "provenance": artifact.provenance,
        "audit": asdict(audit),
    }


def _spec(values: dict[str, Any]) -> TensorSpec:
    return replace(TensorSpec(**values), shape=tuple(values["shape"]))


def _audit(values: dict[str, Any]) -> Audit:
    values = {"kept_float": [], **values}  # files of earlier versions have none
    lists = {name: tuple(values[name]) for name in ("float_operators", "float_tensors", "violations", "kept_float")}
    return Audit(**{**values, **lists})
