"""What turns an artifact into one for a chip. One compiler is one module that satisfies `Compiler`, and one line in
`registry.COMPILERS`. Another distribution adds its own by an entry point of the group `squeeze_export.compilers`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from squeeze_export.core import Artifact, Placement
from squeeze_export.errors import BadInput
from squeeze_export.registry import COMPILERS, entry_named
from squeeze_export.results import Estimate


@dataclass(frozen=True)
class Compiled:
    """What a compiler made of an artifact for one chip.

    Attributes:
        content: the file's bytes.
        settings: what was chosen for it, defaults included; goes into the file's provenance.
        placement: where its operators will run, where the compiler tells; None where a session of a runtime will.
        estimate: what the compiler expects of the chip; None where it expects nothing.
    """

    content: bytes
    settings: Mapping[str, str]
    placement: Placement | None = None
    estimate: Estimate | None = None


class Compiler(Protocol):
    """What a compiler's module offers. Toolchains are imported, or run, inside the functions.

    Attributes:
        NAME: the registry's key, the command's name, and the `target` of what it makes.
        TARGET: the format that it takes.
        SCHEMES: names of the schemes that it takes, the default first; others are refused.
        SUFFIX: of its file's name, behind `<network>.<scheme>.<chip>`.
        CHIPS: names of what it compiles for, the default first.
        RUNTIMES: names of the runtimes that open its product, the default first; empty where nothing here does.
        PACKAGES: names of the distributions that make it up; their versions go into a file's provenance.
    """

    NAME: str
    TARGET: str
    SCHEMES: tuple[str, ...]
    SUFFIX: str
    CHIPS: tuple[str, ...]
    RUNTIMES: tuple[str, ...] = ()
    PACKAGES: tuple[str, ...] = ()

    def check(self, chip: str, settings: Mapping[str, str]) -> None:
        """Refuses what can be known to fail before any work is done. By default, a chip not among `CHIPS`, and any setting.

        Raises:
            BadInput: no such chip, or a setting that it does not have.
            Unavailable: the toolchain is not on this machine.
        """
        if chip not in self.CHIPS:
            raise BadInput(f"{self.NAME} does not compile for `{chip}`", hint=f"one of: {', '.join(self.CHIPS)}")
        if settings:
            raise BadInput(f"{self.NAME} has no setting `{next(iter(settings))}`")

    @abstractmethod
    def compile_for(self, artifact: Artifact, chip: str, settings: Mapping[str, str], folder: Path) -> Compiled:
        """Compiles an artifact.

        Args:
            artifact: of `TARGET`, in one of `SCHEMES`.
            chip: one of `CHIPS`.
            settings: name -> value of what the user chose; what is not there has its default.
            folder: empty, for the toolchain's own files; removed afterwards.

        Raises:
            BadInput: as `check`.
            Unavailable: as `check`.
            Refused: the toolchain failed, or made something else than was asked for.
        """


def compiler_named(name: str) -> Compiler:
    """Looks a compiler up.

    Raises:
        BadInput: there is no such compiler.
        Refused: another distribution's module is none.
    """
    return cast(Compiler, entry_named(name, COMPILERS, "compiler", Compiler))
