"""What a shell completes besides file names: named weights, runtimes, and the layers of the network that `--weights` names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable

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
        from squeeze_export.targets import target_named

        target = ctx.command.name or ""
        return _fitting(target_named(target).RUNTIMES if target in TARGETS else registered(RUNTIMES, "runtime"), incomplete)


class LayerName(click.types.StringParamType):
    """The name of a layer; a number in the settings file is text too."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The layers of the network that `--weights` names, of the demo network without it; none of a file that cannot be read."""
        from squeeze_export.pipeline.network import layer_names

        try:
            return _fitting(layer_names(ctx.params.get("weights")), incomplete)
        except SqueezeExportError:
            return []


def _fitting(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
