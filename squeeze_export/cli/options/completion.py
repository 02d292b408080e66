"""What a shell completes besides file names: named weights, runtimes, devices, and the layers of the network of `--weights`.

Nothing here imports a framework.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence

import click
from click.shell_completion import CompletionItem

from squeeze_export.errors import SqueezeExportError
from squeeze_export.nets.download import NAMED_WEIGHTS
from squeeze_export.registry import RUNTIMES, TARGETS, registered


class Weights(click.types.StringParamType):
    """A checkpoint file or named weights."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Named weights together with the files that begin like them; where no name fits, the shell completes files itself."""
        named = _fitting(NAMED_WEIGHTS, incomplete)
        if not named:
            return [CompletionItem(incomplete, type="file")]
        files = sorted(glob.glob(f"{glob.escape(incomplete)}*"))
        return named + [CompletionItem(f"{file}{os.sep}" if os.path.isdir(file) else file) for file in files]


class RuntimeName(click.types.StringParamType):
    """The name of a runtime."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The runtimes of the command's target; for a command that is not of one target, all."""
        return _fitting(_runtimes(ctx), incomplete)


class DeviceName(click.types.StringParamType):
    """The name of a device."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What `--runtime` can have on some machine; without it, what any runtime of the command can."""
        from squeeze_export.pipeline.sessions import device_names

        asked, known = ctx.params.get("runtime"), _runtimes(ctx)
        names = [name for name in known if name == asked] or known
        return _fitting(device_names(names), incomplete)


class LayerName(click.types.StringParamType):
    """The name of a layer; a number in the settings file is text too."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The layers of the network that `--weights` names, of the demo network without it; none of a file that cannot be read."""
        from squeeze_export.pipeline.network import layer_names

        try:
            return _fitting(layer_names(ctx.params.get("weights")), incomplete)
        except SqueezeExportError:
            return []


def _runtimes(ctx: click.Context) -> Sequence[str]:
    """Those of the command's target, or of the compiler of its name; for any other command all."""
    from squeeze_export.targets import target_named

    name = ctx.command.name or ""
    if name in TARGETS:
        return target_named(name).RUNTIMES
    known = tuple(registered(RUNTIMES, "runtime"))
    return (name,) if name in known else known


def _fitting(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
