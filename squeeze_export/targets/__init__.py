"""Targets write files. A target is one module that satisfies `Target`, and one line in `registry.TARGETS`.

`formats` reads and checks the files. A small target is a NAME, a SUFFIX, its SCHEMES and `emit`; the rest has defaults. Another
distribution adds a target by an entry point of the group `squeeze_export.targets`, and a new format by one of
`squeeze_export.formats`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol, cast

from squeeze_export.core import EmitOptions
from squeeze_export.errors import BadInput
from squeeze_export.files import Content
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme, scheme_named
from squeeze_export.registry import TARGETS, entry_named


class Target(Protocol):
    """What a target's module offers. Frameworks are imported inside the functions.

    Attributes:
        NAME: the registry's key and the command's name.
        SUFFIX: of the file or folder, with its dot.
        SCHEMES: names of the supported schemes.
        FORMAT: the key of its format in `registry.FORMATS`; empty where it equals NAME.
        INPUTS: the supported dtypes of the pixels.
        RUNTIMES: names of the runtimes that open its files, the default first; empty where none here does.
        PACKAGES: names of the distributions that it writes with; their versions go into a file's provenance.
    """

    NAME: str
    SUFFIX: str
    SCHEMES: tuple[str, ...]
    FORMAT: str = ""
    INPUTS: tuple[str, ...] = ("uint8", "float32")
    RUNTIMES: tuple[str, ...] = ()
    PACKAGES: tuple[str, ...] = ()

    @abstractmethod
    def emit(self, network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions, metadata: Mapping[str, str]) -> Content:
        """Writes the network. The caller has asked `check_carries` and `check_fits`.

        Args:
            network: a `QuantizedGraph` of this scheme for an integer scheme, else a `Graph`.
            scheme: one of `SCHEMES`.
            options: the outer form, with an input of `INPUTS`.
            metadata: key -> text, for the format's own metadata.

        Returns:
            The file's bytes, or the folder's files; the same arguments give the same bytes.
        """


def target_named(name: str) -> Target:
    """Looks a target up.

    Raises:
        BadInput: there is no such target.
        Refused: another distribution's module is not a target.
    """
    return cast(Target, entry_named(name, TARGETS, "target", Target))


def check_carries(target: str, scheme: str, options: EmitOptions) -> Target:
    """The module of a target that supports a scheme and an outer form, asked before anything is computed.

    Raises:
        BadInput: there is no such target, or it does not support the scheme or the form.
    """
    module = target_named(target)
    if scheme not in module.SCHEMES:
        raise BadInput(f"{target} does not carry the scheme `{scheme}`", hint=f"it carries: {', '.join(module.SCHEMES)}")
    if options.input_dtype not in module.INPUTS:
        raise BadInput(f"{target} files take no `{options.input_dtype}` pixels", hint=f"--input {' or '.join(module.INPUTS)}")
    if options.softmax and options.sigmoid:
        raise BadInput("a file ends in a softmax or in a sigmoid, not in both", hint="--softmax or --sigmoid")
    if scheme_named(scheme).integer_output and options.ending != "logits":
        hint = f"leave out --{options.ending}, or --scheme int8"
        raise BadInput(f"`{scheme}` gives logits of 8 bits, not probabilities", hint=hint)
    if isinstance(options.batch, int) and options.batch < 1:
        raise BadInput(f"a batch of `{options.batch}` images", hint="--batch N with N at least 1, or --batch dynamic")
    return module


def check_fits(network: Graph | QuantizedGraph, scheme: Scheme) -> None:
    """Checks that a network has the scheme's own integers: in another scheme they would mean something else.

    Raises:
        BadInput: an integer scheme has no table or another scheme's, or a float scheme has one.
    """
    if scheme.integer != isinstance(network, QuantizedGraph):
        raise BadInput(f"the scheme `{scheme.name}` needs {'a quantized' if scheme.integer else 'a float'} graph")
    if isinstance(network, QuantizedGraph) and network.scheme.name != scheme.name:
        raise BadInput(
            f"a table of the scheme `{network.scheme.name}` is not written as `{scheme.name}`",
            hint=f"--scheme {network.scheme.name}, or calibrate again",
        )
