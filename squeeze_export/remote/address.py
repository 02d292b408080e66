"""The address of a board: `ssh://user@host[:port]` or `adb://SERIAL`. It is read strictly, because it becomes part of a command."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from squeeze_export.errors import BadInput

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_SSH = re.compile(rf"ssh://(?:({_NAME})@)?({_NAME}|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\])(?::([0-9]+))?/?")
_ADB = re.compile(r"adb://([A-Za-z0-9][A-Za-z0-9._:-]*)/?")
_FORMS = "--on ssh://user@host[:port] or --on adb://SERIAL"
MAX_PORT = 65535


@dataclass(frozen=True)
class SshAddress:
    """A board that OpenSSH reaches.

    Attributes:
        host: an IP address, or a name from DNS or from the user's ssh configuration.
        user: None takes the one in the user's ssh configuration.
        port: likewise.
    """

    host: str
    user: str | None = None
    port: int | None = None

    @property
    def text(self) -> str:
        """The address as messages show it."""
        return f"{self.user}@{self.host}" if self.user else self.host


@dataclass(frozen=True)
class AdbAddress:
    """A device that adb reaches.

    Attributes:
        serial: as `adb devices` lists it.
    """

    serial: str


def read_address(url: str) -> SshAddress | AdbAddress:
    """Reads a URL.

    Raises:
        BadInput: it has neither of the two forms, holds a password, or a name that a program would take for an option.
    """
    found = _ADB.fullmatch(url)
    if found:
        return AdbAddress(found[1])
    if re.match(r"ssh://[^/@]*:[^/@]*@", url):
        raise BadInput("a password has no place in --on", hint="let ssh use a key: ssh-copy-id user@host")
    found = _SSH.fullmatch(url)
    if not found:
        raise BadInput(f"`{url}` is not the address of a board", hint=_FORMS)
    user, host, port = found[1], found[2], found[3]
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError as err:
            raise BadInput(f"`{host}` is not an IPv6 address: {err}", hint=_FORMS) from err
    if port is not None and not (len(port) <= 5 and 1 <= int(port) <= MAX_PORT):
        raise BadInput(f"the port `{port[:9]}` is outside 1 to {MAX_PORT}", hint=_FORMS)
    return SshAddress(host, user, None if port is None else int(port))
