"""`squeeze-export weights [NAME]`: the named weights."""

from __future__ import annotations

from typing import Any

import click

from squeeze_export.cli.console import print_json, shown_progress
from squeeze_export.cli.options import Choice, Command, option
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.nets.download import NAMED_WEIGHTS, cache_folder, fetch_weights

NAME = click.Argument(["name"], required=False, type=Choice(list(NAMED_WEIGHTS)))
MIRROR = option("--mirror", metavar="URL", help="Address of a folder with the files, instead of the publisher's.")


@click.command("weights", cls=Command, params=[NAME, MIRROR, *OUTPUT])
def command(name: str | None, mirror: str | None, **values: Any) -> None:
    """List the named weights and where they are stored, or download one. The hash in its file name is checked.

    \b
    squeeze-export weights squeezenet1_1
    """
    if name is not None:
        with shown_progress() as progress:
            path = fetch_weights(name, base_url=mirror, progress=progress)
        if values["as_json"]:
            print_json({"name": name, "path": str(path)})
        else:
            click.echo(str(path))
        return
    rows = [(known, url, (cache_folder() / url.rsplit("/", 1)[1])) for known, url in NAMED_WEIGHTS.items()]
    if values["as_json"]:
        print_json([{"name": known, "url": url, "path": str(path), "cached": path.exists()} for known, url, path in rows])
        return
    for known, url, path in rows:
        click.echo(f"{known}  {url}  {path if path.exists() else 'not downloaded'}")
