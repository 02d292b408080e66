"""Every way a command can fail, with its exit code. Imports nothing of the project."""

from __future__ import annotations

from collections.abc import Iterable

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_INTERRUPTED = 130


class SqueezeExportError(Exception):
    """A failure that the user can understand and act on.

    Attributes:
        message: one line that says what is wrong, values in backticks.
        hint: what to type next, or None where there is nothing to type.
        exit_code: the process's exit code (part of the command-line interface).
    """

    exit_code = EXIT_BUG

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadInput(SqueezeExportError):
    """Wrong usage, or a file, folder or option whose content does not fit."""

    exit_code = 2


class Unavailable(SqueezeExportError):
    """A device, package or network that this machine does not have."""

    exit_code = 3


class NotInstalled(Unavailable):
    """A package that is not here at all. Among several targets its own is skipped, and the others go on."""


class Inapplicable(Unavailable):
    """Something that no device of this kind can do. Among other jobs it is skipped, and the others go on."""


class Refused(SqueezeExportError):
    """A toolchain refused the work, or its product failed our proof."""

    exit_code = 4


class GateFailed(SqueezeExportError):
    """A bound was broken, or a file differs from what was promised."""

    exit_code = 5


class GateUndecided(SqueezeExportError):
    """The measurement is too uncertain to pass or fail."""

    exit_code = 6


_FEW = 20
"""Names that fit into a hint."""


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """The hint for a name that is not known: the nearest one, and all if they are few; without a near one `otherwise`, or all."""
    import difflib  # takes 5 ms, and most names are not mistyped

    names = list(known)
    listed = f"one of: {', '.join(names)}"
    near = difflib.get_close_matches(name, names, n=1)
    if not near:
        return otherwise or listed
    return f"did you mean `{near[0]}`?" + (f" {listed}" if otherwise is None and len(names) <= _FEW else "")
