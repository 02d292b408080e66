"""The command line. Each command has a file of its own, imported only when it runs, so `--help` is fast."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import click

from squeeze_export import __version__
from squeeze_export.cli.settings import default_map
from squeeze_export.errors import EXIT_DONE, EXIT_INTERRUPTED, BadInput, SqueezeExportError, did_you_mean
from squeeze_export.registry import COMPILERS, TARGETS, registered

COMMANDS: dict[str, tuple[str, str]] = {
    "tflite": ("export", "Export to TFLite; validate and time it."),
    "onnx": ("export", "Export to ONNX; validate and time it."),
    "openvino": ("export", "Export to OpenVINO; validate and time it."),
    "coreml": ("export", "Export to Core ML; validate it."),
    "coreai": ("export", "Export to Core AI; validate it."),
    "all": ("export", "Export to every target; one table."),
    "ethosu": ("ethosu", "Compile for Arm Ethos-U with Vela; its estimates."),
    "qnn": ("qnn", "Compile for Qualcomm Hexagon; run on its emulator."),
    "executorch": ("executorch", "Lower to ExecuTorch; run on this CPU."),
    "calibrate": ("calibrate", "Compute the integers once; write them as a table file."),
    "validate": ("validate", "Compare exported files with the fp32 reference."),
    "bench": ("bench", "Time exported files in interleaved rounds."),
    "compare": ("compare", "Compare any two files on the same images, without labels."),
    "analyze": ("analyze", "Why did INT8 hurt? By layer and by image."),
    "inspect": ("inspect", "Layers, parameters, MACs and bytes of a network."),
    "lint": ("lint", "Will a chip take a file? By its maker's documented rules."),
    "audit": ("audit", "What is inside an exported file: is it really INT8?"),
    "gate": ("gate", "Hold a report to bounds: passed, failed or undecided."),
    "verify": ("verify", "Is a file still what was exported? Bytes, proof, answers."),
    "report": ("report", "Show a report.json as table, Markdown or HTML."),
    "weights": ("weights", "Named weights: list or download them."),
    "toolchain": ("toolchain", "Vendors' toolchains, each in its own environment."),
    "doctor": ("doctor", "What is installed, which devices exist, what is missing."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they run; their one-line help texts are in `commands`.

    The `command` of a module is a click command, or a function that makes one for a target or compiler.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        file, _ = COMMANDS.get(cmd_name) or commands().get(cmd_name) or ("", "")
        if not file:
            return None
        command = importlib.import_module(f"squeeze_export.cli.{file}").command
        return cast(click.Command, command if isinstance(command, click.Command) else command(cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in commands().items()])


def commands() -> dict[str, tuple[str, str]]:
    """Command -> its file in this folder and its one-line help: ours, and one for each registered target and compiler of others."""
    targets = {name: ("export", f"Export to {name}; validate and time it.") for name in registered(TARGETS, "target")}
    compilers = {name: ("compile", f"Compile for {name}.") for name in registered(COMPILERS, "compiler")}
    return COMMANDS | {name: found for name, found in (targets | compilers).items() if name not in COMMANDS}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, package_name="squeeze-export")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Export a trained SqueezeNet to INT8 for ONNX, TFLite, OpenVINO, Core ML and Core AI: calibrated once, the same integers
    everywhere.

    \b
    squeeze-export tflite --int8 --calib imgs/     your photographs, the embedded demo network
    squeeze-export onnx --int8 --weights net.pth --calib imgs/ --eval val/ --labels classes.txt

    Results go to stdout, all else to stderr. Options can also be set as SQUEEZE_EXPORT_<OPTION>, in squeeze-export.toml
    or in [tool.squeeze-export] of pyproject.toml.
    """
    ctx.default_map = default_map(known_options, tell=lambda text: click.echo(visible(text), err=True))


def known_options() -> dict[str, dict[str, str]]:
    """Command -> its options, without their dashes -> the parameter names of these."""
    root = click.Context(cli)
    found: dict[str, dict[str, str]] = {}
    for name in commands():
        try:
            command = cli.get_command(root, name)
        except SqueezeExportError:  # another distribution's broken one: running it gives the error
            if name in COMMANDS:
                raise
            continue
        options = [param for param in command.params if isinstance(param, click.Option)] if command is not None else []
        found[name] = {long_name(option): option.name or "" for option in options}
    return found


def long_name(option: click.Option) -> str:
    """`no-bench` of `--no-bench`."""
    return next(text for text in option.opts if text.startswith("--")).removeprefix("--")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script: runs a command and turns every failure into a line, a hint and an exit code. SIGTERM acts like ^C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process lives
    out = sys.__stdout__
    if out is not None and out is sys.stdout and not out.isatty():
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Output(1, "wb", closefd=False)), out.encoding, out.errors)
    sys.exit(run(argv))


class _Output(io.FileIO):
    """stdout whose reader may leave early, as `| head` does: the rest is dropped, and the exit code stays the same.

    Any other failure is raised only once, since Python flushes again at exit.
    """

    _failed = False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)
        except OSError:
            if self._failed:
                return len(data)
            self._failed = True
            raise


def run(argv: Sequence[str] | None = None) -> int:
    """As `main`, but returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations in third-party libraries do not help a user; see --verbose
            result: Any = cli.main(arguments, prog_name="squeeze-export", standalone_mode=False)
        return result if isinstance(result, int) else EXIT_DONE
    except SqueezeExportError as err:
        complain(err.message, err.hint)
        return err.exit_code
    except click.exceptions.NoArgsIsHelpError as err:
        click.echo(err.format_message(), err=True)
        return BadInput.exit_code
    except click.UsageError as err:
        complain(*explained(err, arguments))
        return BadInput.exit_code
    except click.ClickException as err:
        complain(err.format_message(), None)
        return BadInput.exit_code
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted; nothing was left half-written", None)
        return EXIT_INTERRUPTED
    except OSError as err:
        if err.errno != errno.ENOSPC:
            raise
        # A full output folder has a message of its own, so this is the temporary folder or stdout.
        complain(
            "no space left on the disk of the temporary folder, or where stdout goes", "set TMPDIR to a folder on another disk"
        )
        return BadInput.exit_code


def explained(err: click.UsageError, arguments: Sequence[str]) -> tuple[str, str]:
    """What is wrong with the arguments, and the hint: the nearest command or option for one that is mistyped, else the help."""
    # click gives no context if an option lacks its argument.
    help_of = " ".join(["squeeze-export", *(name for name in arguments[:1] if name in commands()), "--help"])
    if isinstance(err, click.NoSuchCommand):
        return err.message, did_you_mean(err.command_name, commands(), otherwise=help_of)
    if isinstance(err, click.NoSuchOption):
        return err.message, did_you_mean(err.option_name, err.possibilities or (), otherwise=help_of)
    return err.format_message(), help_of


def complain(message: str, hint: str | None) -> None:
    """An `error:` line and a `hint:` line on stderr; on GitHub an annotation too, so that a pull request shows it."""
    click.secho("error: ", err=True, nl=False, fg="red", bold=True)
    click.echo(visible(message), err=True)
    if hint:
        click.secho("hint: ", err=True, nl=False, fg="cyan")
        click.echo(visible(hint), err=True)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        from squeeze_export.report.ci.annotations import workflow_command

        click.echo(workflow_command("error", {"title": "squeeze-export"}, visible(message)), err=True)


def visible(text: str) -> str:
    """A text in one line; control characters, which a hostile file may hold, are shown as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
