"""The export job: network or table -> file, audited before it gets its name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from squeeze_export import __version__
from squeeze_export.compilers import Compiler
from squeeze_export.core import Artifact, Audit, EmitOptions
from squeeze_export.errors import BadInput, Refused
from squeeze_export.files import Content, content_sha256, content_size, read_content, write_draft, write_files
from squeeze_export.formats import Format, audited, format_named
from squeeze_export.graph.golden import Golden, golden
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme
from squeeze_export.images.names import shown
from squeeze_export.measure.host import tool_versions
from squeeze_export.pipeline.sidecar_document import (
    SIDECAR,
    SidecarDocument,
    constant_hashes,
    damaged,
    piece_hashes,
    read_sidecar,
    sidecar_bytes,
    sidecar_path,
)
from squeeze_export.registry import COMPILERS, FORMATS, TARGETS, registered, usable
from squeeze_export.targets import check_carries, check_fits, target_named

_HINT = "export it again with this tool"


def export(
    network: Graph | QuantizedGraph, target: str, scheme: Scheme, out: Path, *, name: str, options: EmitOptions | None = None
) -> tuple[Artifact, Audit]:
    """Writes `<name>.<scheme><suffix>` and its sidecar into a folder.

    The file is opened again and audited before it gets its name: an int8 file that is not one never appears.

    Args:
        network: a `QuantizedGraph` for an integer scheme, else a `Graph`.
        target: a key of `registry.TARGETS`.
        scheme: how numbers are carried.
        out: an existing folder.
        name: first part of the file name.
        options: the outer form.

    Raises:
        BadInput: the target does not carry the scheme or the pixels, the name is not a file name, or the folder cannot be written.
        Unavailable: the package that writes the format is missing.
        Refused: the file failed its audit.
    """
    form = options or EmitOptions()
    check_carries(target, scheme.name, form)
    artifact = export_checked(network, target, scheme, out, name=name, options=form)
    assert artifact.audit is not None  # of a target's file there is one
    return artifact, artifact.audit


def export_checked(
    network: Graph | QuantizedGraph,
    target: str,
    scheme: Scheme,
    out: Path,
    *,
    name: str,
    options: EmitOptions,
    origin: Mapping[str, Any] | None = None,
    answers: Golden | None = None,
) -> Artifact:
    """`export` to a target that is known to carry the scheme in this outer form.

    `origin` (of `Network`) goes into the sidecar, and so do `answers`, which are computed where they are not given.
    """
    module = target_named(target)
    check_fits(network, scheme)
    if not name or Path(name).name != name or not name.isprintable():
        raise BadInput(f"the network's name {shown(name)} is no file name")  # a stranger's table may say anything
    provenance = provenance_of(network, scheme, target)
    content = module.emit(network, scheme, options, metadata_of(provenance))
    told = {**provenance, **(origin or {})}  # in the sidecar alone: the file's own bytes stay what they are
    path = out / f"{name}.{scheme.name}{module.SUFFIX}"
    return keep(content, path, target, scheme, told, network.labels, answers=answers or golden(network, scheme))


def keep(
    content: Content,
    path: Path,
    target: str,
    scheme: Scheme,
    provenance: dict[str, Any],
    labels: tuple[str, ...],
    *,
    promised: bool = True,
    answers: Golden | None = None,
) -> Artifact:
    """Audits what was made, and gives it its name and its sidecar.

    Args:
        content: the file or folder.
        path: where it goes.
        target: a key of `registry.TARGETS`.
        scheme: how numbers are carried.
        provenance: into the sidecar.
        labels: likewise.
        promised: whether an integer file that fails its audit is refused; False for another tool's product, whose sidecar
            then lists the violations.
        answers: what the file must answer; None where nobody knows.

    Raises:
        Refused: the file failed its audit.
        BadInput: the folder cannot be written.
    """
    file_format = target_named(target).FORMAT or target
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
        draft = Path(folder) / path.name
        write_draft(draft, content)
        audit, constants = audited(file_format, draft), constant_hashes(format_named(file_format).read(draft))
        if not scheme.integer:
            audit = replace(audit, violations=())  # a float file breaks no promise by holding floats
        source, result = format_named(file_format).describe(draft)
    faults = (*audit.violations, *audit.untold)
    if promised and scheme.integer and faults:
        more = f" (and `{len(faults) - 1}` more)" if len(faults) > 1 else ""
        raise Refused(f"the {target} file is not the integer network it claims to be: {faults[0]}{more}")
    artifact = Artifact(
        path, target, scheme.name, content_sha256(content), content_size(content), source, result, provenance, audit
    )
    _write_with_sidecar(content, artifact, labels, constants, answers)
    return artifact


def keep_compiled(content: Content, path: Path, source: Artifact, compiler: str, provenance: Mapping[str, Any]) -> Artifact:
    """Gives a compiler's product its name and its sidecar. Inputs, outputs, scheme and labels are those of its source.

    Args:
        content: the file.
        path: where it goes.
        source: what was compiled; its sidecar is beside it.
        compiler: a key of `registry.COMPILERS`.
        provenance: what goes into the sidecar beside the source's own.

    Raises:
        BadInput: the folder cannot be written, or the source's sidecar cannot be read.
    """
    facts = {**source.provenance, "compiled_from": {"file": source.path.name, "sha256": source.sha256}, **provenance}
    sha256, size_bytes = content_sha256(content), content_size(content)
    artifact = Artifact(path, compiler, source.scheme, sha256, size_bytes, source.input, source.output, facts)
    _write_with_sidecar(content, artifact, read_sidecar(sidecar_path(source.path)).labels)
    return artifact


def audit_file(path: Path) -> Audit:
    """What is inside a file of one of the targets, ours or another tool's; its ending says which target.

    Raises:
        BadInput: no such file, or its ending is no target's, or a compiler's.
    """
    return audited(format_of(path), path)


def format_of(path: Path) -> str:
    """The format of a file, ours or another tool's, by its ending.

    Raises:
        BadInput: no such file, or its ending is no format's, or a compiler's.
    """
    compiler = compiler_of(path)
    if compiler is not None:
        message = f"`{path.name}` is a file of the compiler {compiler}, made for a chip: what is in it cannot be told from the file"
        raise BadInput(message, hint="audit the file that it was compiled from")
    suffixes: dict[str, str] = {}
    for name, known in usable(FORMATS, "format", Format).items():
        suffixes.setdefault(known.SUFFIX, name)  # ours come first: no other distribution takes an ending from us
    suffixes[".xml"] = "openvino"  # how every other tool writes OpenVINO's two files
    suffixes[".mlmodel"] = "coreml"  # the form before `.mlpackage`
    if path.suffix not in suffixes:
        raise BadInput(f"`{path}` is no file of a target", hint=f"endings that are: {', '.join(suffixes)}")
    if not path.exists():
        raise BadInput(f"`{path}` is not a file")
    return suffixes[path.suffix]


def compiler_of(path: Path) -> str | None:
    """The compiler whose files end like this one, if any does."""
    compilers = usable(COMPILERS, "compiler", Compiler)
    return next((name for name, compiler in compilers.items() if path.name.endswith(compiler.SUFFIX)), None)


def read_artifact(path: Path) -> Artifact:
    """Opens an exported file by its sidecar.

    Raises:
        BadInput: no file, no sidecar, a sidecar that cannot be read, or a file that is not the one it describes.
    """
    told = read_sidecar(sidecar_path(path))
    compiled = told.target in registered(COMPILERS, "compiler")
    if not compiled and told.target not in registered(TARGETS, "target"):
        raise damaged(sidecar_path(path), f"no target is called `{told.target}`")
    try:
        content = read_content(path)
    except OSError as err:
        raise BadInput(f"`{err.filename or path}` cannot be read: {err.strerror}", hint=_HINT) from err
    if told.sha256 != content_sha256(content):
        raise BadInput(f"`{path}` is not the file that its sidecar describes (SHA-256 differs)", hint=_HINT)
    if told.audit is None and not compiled:
        raise damaged(sidecar_path(path), "it has no audit")
    size_bytes, audit = content_size(content), None if compiled else told.audit
    return Artifact(path, told.target, told.scheme, told.sha256, size_bytes, told.input, told.output, dict(told.provenance), audit)


def metadata_of(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Provenance as the formats' own metadata hold it: name -> text."""
    return {
        f"squeeze_export.{key}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in provenance.items()
    }


def provenance_of(network: Graph | QuantizedGraph, scheme: Scheme, target: str) -> dict[str, Any]:
    """Where a file comes from: hashes, preprocessing, recipe, versions of the packages that wrote it."""
    found: dict[str, Any] = {
        "scheme": scheme.name,
        "checkpoint_sha256": network.checkpoint_sha256,
        "preprocess": json.loads(json.dumps(network.preprocess.to_json())),  # tuples become lists, as the sidecar reads back
        "versions": {"squeeze-export": __version__, **tool_versions(target_named(target).PACKAGES)},
    }
    if isinstance(network, QuantizedGraph):
        found["table_sha256"] = network.sha256
        found["recipe"] = str(network.provenance.get("recipe", ""))
        found["seed"] = network.provenance.get("seed", 0)
        if network.kept_float:
            found["kept_float"] = list(network.kept_float)
    return found


def _write_with_sidecar(
    content: Content,
    artifact: Artifact,
    labels: tuple[str, ...],
    constants: Mapping[str, str] | None = None,
    answers: Golden | None = None,
) -> None:
    sidecar = SidecarDocument(
        SIDECAR.version,
        artifact.path.name,
        artifact.target,
        artifact.scheme,
        artifact.sha256,
        artifact.size_bytes,
        artifact.input,
        artifact.output,
        labels,
        artifact.provenance,
        artifact.audit,
        piece_hashes(content, artifact.path.name),
        constants or {},
        answers,
    )
    write_files({artifact.path: content, sidecar_path(artifact.path): sidecar_bytes(sidecar)})
