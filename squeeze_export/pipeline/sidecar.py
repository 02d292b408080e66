"""`--like SIDECAR.json`: what an export of the same network was told, from the file that stands beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from squeeze_export.core import Preprocess
from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import Architecture, StructureChoice, architecture_from_json
from squeeze_export.nets.safetensors_file import preprocess_from_json
from squeeze_export.pipeline.sidecar_document import read_sidecar

SUFFIX = ".json"
_HINT = "--like net.int8.onnx.json: what an export writes beside its file"


@dataclass(frozen=True)
class Sidecar:
    """What it tells about the network.

    Attributes:
        path: where it is.
        checkpoint_sha256: of the checkpoint that the file was made from.
        preprocess: what the file's input takes.
        structure: what the checkpoint does not tell; nothing where it tells all.
        labels: class names; empty where the file has none.
    """

    path: Path
    checkpoint_sha256: str
    preprocess: Preprocess
    structure: StructureChoice
    labels: tuple[str, ...]

    def check(self, checkpoint_sha256: str, source: str) -> None:
        """Refuses a checkpoint that the file was not made from.

        Raises:
            BadInput: it is another one.
        """
        if checkpoint_sha256 != self.checkpoint_sha256:
            raise BadInput(
                f"`{self.path.name}` belongs to a file that was not made from `{source}`", hint="name its checkpoint with --weights"
            )


def opened_sidecar(path: Path) -> Sidecar:
    """Reads a sidecar for what it tells about the network.

    Raises:
        BadInput: no such file, or no sidecar of an exported file.
    """
    sidecar = read_sidecar(path)
    provenance = sidecar.provenance
    try:
        digest, stored = provenance["checkpoint_sha256"], dict(provenance["preprocess"])
        known = dict(provenance["architecture"]) if "architecture" in provenance else None
        if not isinstance(digest, str):
            raise TypeError("checkpoint_sha256 is no text")
    except (KeyError, TypeError, ValueError) as err:
        raise BadInput(f"`{path}` is no sidecar of an exported file: {err!r}", hint=_HINT) from err
    structure = StructureChoice() if known is None else _told(architecture_from_json(known))
    return Sidecar(path, digest, preprocess_from_json(stored), structure, sidecar.labels)


def _told(arch: Architecture) -> StructureChoice:
    bypasses = {fire.bypass for fire in arch.fires}
    return StructureChoice(
        conv1_stride=arch.conv1_stride,
        conv1_pad=arch.conv1_pad,
        final_relu=arch.final_relu,
        ceil_pools=arch.ceil_pools,
        conv10_pad=arch.conv10_pad,
        bypass="complex" if "complex" in bypasses else "simple" if "simple" in bypasses else "none",
    )
