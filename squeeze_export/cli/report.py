"""`squeeze-export report FILE`: a stored report in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze_export.cli import visible
from squeeze_export.cli.console import print_json, stdout_console
from squeeze_export.cli.options import FILE, Choice, Command, option
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.documents import to_json
from squeeze_export.results import SCHEMA

FORMAT = option(
    "--format",
    "form",
    type=Choice(["table", "markdown", "html"]),
    default="table",
    help="The form to show it in.",
)


@click.command("report", cls=Command, params=[click.Argument(["file"], type=FILE), FORMAT, *OUTPUT])
def command(file: Path, form: str, **values: Any) -> None:
    """Show a report.json on stdout: as a table, as Markdown for a pull request, or as one HTML page.

    \b
    squeeze-export report squeeze-export-out/report.json --format markdown
    """
    report = SCHEMA.read(file)
    if values["as_json"]:
        print_json(to_json(report, SCHEMA.name))
        return
    # It may come from elsewhere, and the other formats show its text unescaped.
    report = SCHEMA.from_json(_visible(to_json(report, SCHEMA.name)))
    if form == "markdown":
        from squeeze_export.report.markdown import to_markdown

        click.echo(to_markdown(report))
    elif form == "html":
        from squeeze_export.report.html import to_html

        click.echo(to_html(report))
    else:
        from squeeze_export.report.terminal import print_table

        print_table(report, stdout_console())


def _visible(value: Any) -> Any:
    if isinstance(value, dict):
        return {visible(key): _visible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_visible(item) for item in value]
    return visible(value) if isinstance(value, str) else value
