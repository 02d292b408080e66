"""What writes a network down in a file format: one folder each that satisfies `Target`, and one line in `TARGETS`. What reads the
format, and checks what was written, is `formats`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol, cast

from squeeze_export.core import EmitOptions
from squeeze_export.errors import BadInput
from squeeze_export.files import Content
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme, check_written_as, scheme_named
from squeeze_export.registry import entry_named


class Target(Protocol):
    """What a format's module offers. Frameworks are imported inside the functions.

    Attributes:
        NAME: the registry's key and the command's name.
        SUFFIX: of the file or folder, with its dot.
        SCHEMES: names of the schemes that the format carries; others are refused.
        INPUTS: dtypes of pixels that its files can take; others are refused.
        RUNTIMES: names of the runtimes that open it, the default first.
        PACKAGES: names of the distributions that write it; their versions go into a file's provenance.
    """

    NAME: str
    SUFFIX: str
    SCHEMES: tuple[str, ...]
    INPUTS: tuple[str, ...]
    RUNTIMES: tuple[str, ...]
    PACKAGES: tuple[str, ...]

    @abstractmethod
    def emit(self, network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions, metadata: Mapping[str, str]) -> Content:
        """Writes the network down. What `check_carries` and `check_fits` refuse is not asked again.

        Args:
            network: a `QuantizedGraph` of this scheme for an integer scheme, else a `Graph`.
            scheme: one of `SCHEMES`.
            options: the outer form; of the pixels, one of `INPUTS`.
            metadata: key -> text, written into the format's own metadata.

        Returns:
            The file's bytes, or the folder's files; the same arguments give the same bytes.
        """


TARGETS: Mapping[str, str] = {
    "onnx": "squeeze_export.targets.onnx",
    "tflite": "squeeze_export.targets.tflite",
    "openvino": "squeeze_export.targets.openvino",
    "coreml": "squeeze_export.targets.coreml",
}


def target_named(name: str) -> Target:
    """Looks a target up.

    Raises:
        BadInput: there is no such target.
        Refused: another distribution's module is none.
    """
    return cast(Target, entry_named(name, TARGETS, "target", Target))


def check_carries(target: str, scheme: str, options: EmitOptions) -> Target:
    """The module of a target that carries a scheme in an outer form. It is asked once, before anything is computed.

    Raises:
        BadInput: there is no such target, or it carries no such scheme or form.
    """
    module = target_named(target)
    if scheme not in module.SCHEMES:
        raise BadInput(f"{target} does not carry the scheme `{scheme}`", hint=f"it carries: {', '.join(module.SCHEMES)}")
    if options.input_dtype not in module.INPUTS:
        raise BadInput(f"{target} files take no `{options.input_dtype}` pixels", hint=f"--input {' or '.join(module.INPUTS)}")
    if scheme_named(scheme).integer_output and options.softmax:
        raise BadInput(f"`{scheme}` gives logits of 8 bits, not probabilities", hint="leave out --softmax, or --scheme int8")
    if isinstance(options.batch, int) and options.batch < 1:
        raise BadInput(f"a batch of `{options.batch}` images", hint="--batch N with N at least 1, or --batch dynamic")
    return module


def check_fits(network: Graph | QuantizedGraph, scheme: Scheme) -> None:
    """Refuses to write a network in a scheme that is not its own.

    Raises:
        BadInput: an integer scheme has no table, or another's; or a float scheme has one.
    """
    if scheme.integer != isinstance(network, QuantizedGraph):
        raise BadInput(f"the scheme `{scheme.name}` needs {'a quantized' if scheme.integer else 'a float'} graph")
    if isinstance(network, QuantizedGraph):
        check_written_as(network, scheme)
