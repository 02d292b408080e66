"""Toolchains that cannot share our environment: each has one of its own, and is talked to through files.

One toolchain is one module that satisfies `Toolchain`, and one line in `TOOLCHAINS`; its side of the talk is a worker,
`_<name>_worker.py`, which runs in the other environment and so imports nothing of this project. Modules that begin with an
underscore are no tenants: `_environment` and `_process` are what compilers and runtimes use.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, cast

from squeeze_export.errors import BadInput


class Toolchain(Protocol):
    """What a toolchain's module offers: data alone.

    Attributes:
        NAME: the registry's key, and the command's word.
        VERSION: of `PACKAGE`; the environment's folder is called after both, so that another version is another environment.
        PACKAGE: name of the distribution that it is.
        LICENCE: of the toolchain, in a few words.
        NOTICE: what a user accepts before anything is downloaded; empty where there is nothing to accept.
        WHEELS: Python's `major.minor` -> SHA-256 of the package's wheel. Another Python has none.
        SYSTEM: what those wheels are for, as `sysconfig.get_platform()` says it.
        WHOLE: requirements that are installed with what they need themselves, within the pins of `PINS`: torch needs more or less,
            by the index that it comes from.
        PINS: everything else, to the letter; nothing is installed that is not named here.
        WORKER: file name of the worker, in this folder.
    """

    NAME: str
    VERSION: str
    PACKAGE: str
    LICENCE: str
    NOTICE: str
    WHEELS: Mapping[str, str]
    SYSTEM: str
    WHOLE: tuple[str, ...]
    PINS: tuple[str, ...]
    WORKER: str


TOOLCHAINS: Mapping[str, str] = {
    "executorch": "squeeze_export.toolchains.executorch",
    "rknn": "squeeze_export.toolchains.rknn",
}


def toolchain_named(name: str) -> Toolchain:
    """Looks a toolchain up.

    Raises:
        BadInput: there is no such toolchain.
    """
    if name not in TOOLCHAINS:
        raise BadInput(f"no toolchain is called `{name}`", hint=f"one of: {', '.join(TOOLCHAINS)}")
    return cast(Toolchain, importlib.import_module(TOOLCHAINS[name]))
