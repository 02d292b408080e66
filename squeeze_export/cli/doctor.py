"""`squeeze-export doctor`: what this machine has and lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from squeeze_export.cli.console import print_json, stdout_console
from squeeze_export.cli.options import Command
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.core import require
from squeeze_export.errors import Unavailable
from squeeze_export.measure.environment import Probes, environment


@click.command("doctor", cls=Command, params=[*OUTPUT])
def command(**values: Any) -> None:
    """List what is installed, which devices exist, and what to install for the rest.

    \b
    squeeze-export doctor
    """
    items = environment(Probes(providers=_providers))
    if values["as_json"]:
        print_json([asdict(item) for item in items])
        return
    from squeeze_export.report.environment import print_environment

    print_environment([(i.kind, i.name, i.present, i.detail, i.serves, i.hint) for i in items], stdout_console())


def _providers() -> Sequence[str] | None:
    try:
        providers: list[str] = require("onnxruntime", "onnx").get_available_providers()
    except Unavailable:
        return None
    return providers
