"""What opens an artifact and runs it. One runtime is one module or object that satisfies `Runtime`, and one line in
`registry.RUNTIMES`.

A small one is a NAME, `devices` and `open_session`, whose session is a `session.BatchSession`; the rest has defaults. Another
distribution adds its own by an entry point of the group `squeeze_export.runtimes`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from squeeze_export.core import Artifact, ByteArray, FloatArray, Placement, Session
from squeeze_export.errors import Unavailable
from squeeze_export.registry import RUNTIMES, entry_named, registered
from squeeze_export.runtimes import session


class Runtime(Protocol):
    """What a runtime's module offers. Frameworks are imported inside the functions.

    Attributes:
        NAME: the registry's key.
        TARGETS: the targets whose files it opens. Only a runtime of another distribution sets it; our targets name ours.
        FOREIGN: whether it also runs files of other tools, `Artifact.foreign`.
        DEVICE_NAMES: the devices that it can have on some machine, for a shell to complete.
    """

    NAME: str
    TARGETS: tuple[str, ...] = ()
    FOREIGN: bool = False
    DEVICE_NAMES: tuple[str, ...] = ("cpu",)

    @abstractmethod
    def open_session(self, artifact: Artifact, *, device: str, threads: int) -> Session:
        """Opens an artifact on the device asked for, never on another.

        Args:
            artifact: of a target that names this runtime.
            device: one of `devices()`.
            threads: intra-op threads, at least 1.

        Raises:
            BadInput: `threads` is below 1, or the file cannot be read.
            Unavailable: the device or the runtime's package is not on this machine.
            Refused: the runtime cannot open the file.
        """

    @abstractmethod
    def devices(self) -> tuple[str, ...]:
        """The devices that this runtime can use on this machine.

        Raises:
            Unavailable: the runtime's package is not installed.
        """

    def check_device(self, device: str) -> None:
        """Refuses, before any work is done, a device that no session could be opened on. By default, one that is not among
        `devices()`.

        Raises:
            Unavailable: the device or the runtime is not on this machine; the hint says what to install.
        """
        session.check_present(device, self.devices(), f"`{self.NAME}`")

    def inner_values(self, artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
        """An integer file's inner tensors for one image, computed by the kernels that a session uses. By default, they cannot be
        shown.

        Args:
            artifact: of an integer scheme.
            names: of nodes of the quantized graph that it was written from, except the logits'.
            pixels: (1, H, W, 3) uint8.

        Returns:
            name -> (1, H, W, C) float32 real values: scale * (integer - zero point).

        Raises:
            Unavailable: the runtime cannot show them.
            Refused: the file has no such tensors.
        """
        raise Unavailable(f"`{self.NAME}` does not show what lies inside a network", hint=f"leave out --runtime {self.NAME}")

    def read_records(self, records: Mapping[str, Any], scheme: str) -> tuple[str, Placement]:
        """Reads what this runtime reported of a file that is open on a board. By default, it cannot.

        Args:
            records: as one of the engines in `remote.board_engines` collects them.
            scheme: of the file.

        Returns:
            Kernels and placement, as a session has them.

        Raises:
            Unavailable: the runtime is not run on boards.
            KeyError, TypeError, ValueError, IndexError, AttributeError: the records are not as the engine writes them.
        """
        raise Unavailable(f"`{self.NAME}` is not run on boards")


def runtime_named(name: str) -> Runtime:
    """Looks a runtime up.

    Raises:
        BadInput: there is no such runtime.
        Refused: another distribution's module is broken, or is no runtime.
    """
    return cast(Runtime, entry_named(name, RUNTIMES, "runtime", Runtime))


def added_runtimes(target: str) -> tuple[str, ...]:
    """Names of the runtimes of other distributions that open a target's files."""
    names = registered(RUNTIMES, "runtime").keys() - RUNTIMES.keys()
    return tuple(name for name in sorted(names) if target in runtime_named(name).TARGETS)
