"""Compilers turn an artifact into a file for a chip. One compiler is one module that satisfies `Compiler`, and one line in
`registry.COMPILERS`. Other distributions add theirs by an entry point of the group `squeeze_export.compilers`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from squeeze_export.core import Artifact, Placement
from squeeze_export.errors import BadInput, did_you_mean
from squeeze_export.registry import COMPILERS, entry_named
from squeeze_export.results import Estimate


@dataclass(frozen=True)
class Compiled:
    """An artifact compiled for one chip.

    Attributes:
        content: the file's bytes.
        settings: all settings, including defaults; part of the file's provenance.
        placement: where its operators will run, if the compiler tells; None if a runtime's session will.
        estimate: the compiler's estimate for the chip; None if it makes none.
    """

    content: bytes
    settings: Mapping[str, str]
    placement: Placement | None = None
    estimate: Estimate | None = None


class Compiler(Protocol):
    """What a compiler's module offers. Toolchains are imported, or run, inside the functions.

    Attributes:
        NAME: the registry's key, the command's name, and the `target` of its products.
        TARGET: the format that it takes.
        SCHEMES: names of the schemes that it takes, the default first; others are refused.
        SUFFIX: the end of its file's name, after `<network>.<scheme>.<chip>`.
        CHIPS: names of the chips, the default first.
        RUNTIMES: names of the runtimes that open its product, the default first; empty if none does.
        PACKAGES: names of its distributions; their versions go into a file's provenance.
    """

    NAME: str
    TARGET: str
    SCHEMES: tuple[str, ...]
    SUFFIX: str
    CHIPS: tuple[str, ...]
    RUNTIMES: tuple[str, ...] = ()
    PACKAGES: tuple[str, ...] = ()

    def check(self, chip: str, settings: Mapping[str, str]) -> None:
        """Refuses what is certain to fail, before any work is done. By default, a chip that is not in `CHIPS`, and any setting.

        Raises:
            BadInput: no such chip, or a setting that it does not have.
            Unavailable: the toolchain is not on this machine.
        """
        if chip not in self.CHIPS:
            raise BadInput(f"{self.NAME} does not compile for `{chip}`", hint=did_you_mean(chip, self.CHIPS))
        if settings:
            raise BadInput(f"{self.NAME} has no setting `{next(iter(settings))}`")

    @abstractmethod
    def compile_for(self, artifact: Artifact, chip: str, settings: Mapping[str, str], folder: Path) -> Compiled:
        """Compiles an artifact.

        Args:
            artifact: of `TARGET`, in one of `SCHEMES`.
            chip: one of `CHIPS`.
            settings: name -> value of the user's choices; the others have their defaults.
            folder: an empty folder for the toolchain's own files; removed afterwards.

        Raises:
            BadInput: as `check`.
            Unavailable: as `check`.
            Refused: the toolchain failed, or made something else than it was asked for.
        """


def compiler_named(name: str) -> Compiler:
    """Looks a compiler up.

    Raises:
        BadInput: there is no such compiler.
        Refused: another distribution's module does not satisfy `Compiler`.
    """
    return cast(Compiler, entry_named(name, COMPILERS, "compiler", Compiler))
