"""Reaches a board with OpenSSH's own client and the user's configuration, keys, agent and known hosts.

No check is loosened: an unknown host key is refused, and a password is neither asked for nor stored. The board needs sshd, a POSIX
shell, `mktemp` and Python. The runner and the artifacts travel through ssh's stdin and stay in memory. What the runtimes themselves
write goes to a temporary folder, which both the shell and the runner remove.
"""

from __future__ import annotations

import json
import shlex
import signal
from importlib import resources
from pathlib import Path

from squeeze_export.errors import BadInput, Refused, SqueezeExportError, Unavailable
from squeeze_export.remote.address import SshAddress
from squeeze_export.remote.link import Link

CONNECT_S = 10
GREETING_S = 90
"""Enough to connect, and to start Python and numpy on a slow board."""
SOURCES = ("board_facts", "board_engines", "runner")
"""Modules of this package that are sent to the board, as text."""
OPTIONS = (
    *("-T", "-x", "-a"),  # no terminal, no X11, no agent forwarding
    *("-o", "BatchMode=yes"),
    *("-o", "ClearAllForwardings=yes"),
    *("-o", f"ConnectTimeout={CONNECT_S}"),
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=4"),
)

_NO_PYTHON, _OLD_PYTHON, _NO_FOLDER = 71, 72, 73
_SCRIPT = (
    'umask 077; p=$1; case $p in "~/"*) p=$HOME/${p#"~/"};; /*) ;; */*) p=$PWD/$p;; esac; '
    f'command -v "$p" >/dev/null 2>&1 || exit {_NO_PYTHON}; '
    f'd=$(mktemp -d "${{TMPDIR:-/tmp}}/squeeze-export.XXXXXX") || exit {_NO_FOLDER}; '
    "trap 'cd /; rm -rf \"$d\"' EXIT; trap 'exit 129' HUP INT TERM PIPE; "
    f'cd "$d" || exit {_NO_FOLDER}; TMPDIR=$d TF_CPP_MIN_LOG_LEVEL=3 "$p" -c "$2" "$d" "$3"'
)
"""For `sh -c`: runs Python in a new folder. Its arguments: Python, the program for it, the CPUs to stay on."""
START = (
    f"import sys; sys.version_info >= (3, 7) or sys.exit({_OLD_PYTHON}); "
    "import json, os, types; source = sys.stdin.buffer; "
    "sink = os.fdopen(os.dup(1), 'wb'); os.dup2(2, 1); "  # what libraries print goes to stderr
    "texts = json.loads(source.read(int(source.readline())).decode()); "
    "modules = {name: types.ModuleType(name) for name in texts}; "
    "[exec(compile(texts[name], name, 'exec'), modules[name].__dict__) for name in texts]; "
    "modules['runner'].serve(source, sink, modules['board_facts'], modules['board_engines'].ENGINES, json.loads(sys.argv[2]), "
    "sys.argv[1])"
)
"""The program for the board's Python: it reads the sources from stdin and starts the runner. It writes no file."""
_UNREACHABLE = (
    "Could not resolve",
    "Connection refused",
    "timed out",
    "No route to host",
    "Network is unreachable",
    "not responding",
)
_BROKEN = ("Connection reset", "Broken pipe", "closed by remote host", "lost connection")


def connect(address: SshAddress, *, config: Path | None, python: str, cpus: tuple[int, ...] | None) -> Link:
    """Starts the runner on a board.

    Args:
        address: where the board is.
        config: an ssh configuration file to use instead of the user's own.
        python: name or path of the board's Python; a relative path starts at the home folder.
        cpus: logical CPUs to stay on; None allows all.

    Raises:
        BadInput: `config` is no file, `python` cannot name a program, or the board has no such CPUs.
        Unavailable: the board cannot be reached, refuses our keys, has another host key than the known one, or lacks Python, numpy
            or a temporary folder.
    """
    if config is not None and not config.is_file():
        raise BadInput(f"`{config}` is no ssh configuration file", hint="leave out --ssh-config to use your own")
    if not python or python.startswith("-") or not python.isprintable():
        raise BadInput(f"`{python}` is no name of a Python", hint="--board-python /path/to/python3")
    texts = {name: resources.files(__package__).joinpath(f"{name}.py").read_text(encoding="utf-8") for name in SOURCES}
    sent = json.dumps(texts).encode()
    return Link(
        ssh_command(address, config=config, remote=remote_command(python, cpus)),
        b"%d\n" % len(sent) + sent,
        explain=lambda code, printed: explained(address, python, code, printed),
        name=f"the board `{address.text}`",
        limit_s=GREETING_S,
    )


def ssh_command(address: SshAddress, *, config: Path | None, remote: str) -> list[str]:
    """The command line of OpenSSH's client."""
    command = ["ssh", *OPTIONS]
    if config is not None:
        command += ["-F", str(config.absolute())]
    if address.port is not None:
        command += ["-p", str(address.port)]
    if address.user is not None:
        command += ["-l", address.user]
    return [*command, "--", address.host, remote]


def remote_command(python: str, cpus: tuple[int, ...] | None) -> str:
    """The command for the board's login shell."""
    arguments = (_SCRIPT, "sh", python, START, json.dumps(None if cpus is None else list(cpus)))
    return "exec sh -c " + " ".join(shlex.quote(argument) for argument in arguments)


def explained(address: SshAddress, python: str, code: int, printed: str) -> SqueezeExportError:
    """The error that says why ssh ended.

    Args:
        address: of the board.
        python: the Python that was to run there.
        code: the exit code: 255 is ssh's own; any other comes from the runner or from the shell around it.
        printed: the end of stderr.
    """
    where = f"the board `{address.text}`"
    lines = [line.strip() for line in printed.splitlines() if line.strip() and not line.startswith("Warning: Permanently added")]
    last = " ".join(lines[-1].split())[:300] if lines else ""
    if code == _NO_PYTHON:
        return Unavailable(f"{where} has no `{python}`", hint="install Python 3.7 or newer there, or name it with --board-python")
    if code == _OLD_PYTHON:
        return Unavailable(f"`{python}` of {where} is older than 3.7", hint="name a newer one with --board-python")
    if code == _NO_FOLDER:
        return Unavailable(f"{where} cannot make a temporary folder: {last}", hint="is its disk full, or TMPDIR wrong?")
    if code != 255:
        names = {int(entry): entry.name for entry in signal.Signals}
        if code < 0:
            return Unavailable(f"the connection to {where} broke: ssh was ended by {names.get(-code, -code)}")
        if code - 128 in names:
            ended = names[code - 128]
            hint = "out of memory there?" if ended == "SIGKILL" else None
            return Refused(f"the runner on {where} was ended by {ended}", hint=hint)
        return Refused(f"the runner on {where} ended with exit code `{code}`: {last}")
    typed = address.text if address.port is None else f"-p {address.port} {address.text}"
    retry = f"does `ssh {typed}` work?"
    changed = "somebody may be in between; if not: ssh-keygen -R HOST"
    for texts, message, hint in (
        (("REMOTE HOST IDENTIFICATION HAS CHANGED",), f"the host key of {where} is not the one that is known", changed),
        (("Host key verification failed",), f"the host key of {where} is not known", f"compare it once: ssh {typed}"),
        (("Permission denied",), f"{where} accepts none of your keys", f"ssh-copy-id {typed}, or add the key to your agent"),
        (_UNREACHABLE, f"{where} cannot be reached: {last}", retry),
        (_BROKEN, f"the connection to {where} broke: {last}", retry),
    ):
        if any(text in printed for text in texts):
            return Unavailable(message, hint=hint)
    return Unavailable(f"ssh failed for {where}: {last}" if last else f"the connection to {where} broke", hint=retry)
