"""`squeeze-export toolchain install | list | remove`: environments for toolchains that cannot share ours."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import click

from squeeze_export.cli.console import note, print_json, shown_progress
from squeeze_export.cli.options import Choice, Command, option
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.errors import BadInput
from squeeze_export.registry import TOOLCHAINS
from squeeze_export.workers.environments import (
    Toolchain,
    data_folder,
    install,
    installed,
    is_installed,
    remove,
    toolchain_named,
)

PARAMS = (
    click.Argument(["action"], type=Choice(["install", "list", "remove"])),
    click.Argument(["name"], required=False, type=Choice(list(TOOLCHAINS)), metavar="NAME"),
    option("--accept-licence", is_flag=True, help="install: accept the toolchain's licence without being asked."),
)


@click.command("toolchain", cls=Command, params=[*PARAMS, *OUTPUT])
def command(action: str, name: str | None, accept_licence: bool, **values: Any) -> None:
    """Install a vendor's toolchain into an environment of its own, list what is installed, or remove it.

    If a toolchain has a licence to accept, nothing is downloaded before you accept it. Packages come from pip's own index.

    \b
    squeeze-export toolchain install executorch
    squeeze-export toolchain list
    """
    if (name is None) != (action == "list"):
        hint = "squeeze-export toolchain list" if name is not None else f"one of: {', '.join(TOOLCHAINS)}"
        raise BadInput(f"`{action}` takes {'no name' if name is not None else 'the name of a toolchain'}", hint=hint)
    if name is None:
        _list(as_json=values["as_json"])
        return
    if action == "remove":
        paths = [str(path) for path in remove(name)]
        if values["as_json"]:
            print_json({"name": name, "removed": paths})
            return
        for path in paths:
            click.echo(f"removed {path}")
        return
    toolchain = toolchain_named(name)
    accepted = accept_licence or is_installed(toolchain) or _accepts(toolchain)
    with shown_progress() as progress:
        folder = install(toolchain, accepted=accepted, progress=progress)
    if values["as_json"]:
        print_json({"name": name, "version": toolchain.VERSION, "path": str(folder)})
    else:
        click.echo(str(folder))


def _accepts(toolchain: Toolchain) -> bool:
    """Shows the licence, and asks if a user can answer."""
    if not toolchain.NOTICE:
        return True
    note(f"licence: {toolchain.LICENCE}")
    note(toolchain.NOTICE)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm("Download and install it?", default=False, err=True)


def _list(*, as_json: bool) -> None:
    found = installed()
    if as_json:
        listed = [{**asdict(one), "path": str(one.path)} for one in found]
        print_json({"folder": str(data_folder()), "installed": listed, "known": list(TOOLCHAINS)})
        return
    for one in found:
        click.echo(f"{one.name}  {one.version}  {one.size_bytes / 1e6:,.0f} MB  licence: {one.licence}  {one.path}")
    for name in TOOLCHAINS:
        if name not in {one.name for one in found}:
            toolchain = toolchain_named(name)
            click.echo(f"{name}  {toolchain.VERSION}  not installed  licence: {toolchain.LICENCE}")
