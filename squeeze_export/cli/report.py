"""`squeeze-export report FILE`: a stored report in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze_export.cli import visible
from squeeze_export.cli.console import note, print_json, stdout_console, warn
from squeeze_export.cli.options import FILE, Choice, Command, option
from squeeze_export.cli.options.output import OUTPUT
from squeeze_export.documents import to_json
from squeeze_export.errors import BadInput
from squeeze_export.results import SCHEMA, Report

OPTIONS = (
    option(
        "--format",
        "form",
        type=Choice(["table", "markdown", "html"]),
        default="table",
        help="The form to show it in.",
    ),
    option(
        "--eval",
        "evaluation",
        type=FILE,
        metavar="DIR|CSV|TXT",
        help="HTML: the images that it compared on, for pictures of those that flipped.",
    ),
    option("--history", type=FILE, metavar="DIR", help="HTML and plots: a folder of older reports of the same network."),
    option("--plots", type=FILE, metavar="DIR", help="Also write its drawings as PNG files (needs matplotlib)."),
)


@click.command("report", cls=Command, params=[click.Argument(["file"], type=FILE), *OPTIONS, *OUTPUT])
def command(file: Path, form: str, **values: Any) -> None:
    """Show a report.json on stdout: as a table, as Markdown for a pull request, or as one HTML page.

    The page also shows an analysis.json and a gate.json of the same report that stand beside it.

    \b
    squeeze-export report squeeze-export-out/report.json --format markdown
    squeeze-export report squeeze-export-out/report.json --format html --eval val/ --history reports/ > report.html
    """
    report = SCHEMA.read(file)
    if values["plots"] is None and form != "html" and values["history"] is not None:
        raise BadInput("--history is drawn: the table and Markdown have no drawings", hint="--format html, or --plots DIR")
    if form != "html" and values["evaluation"] is not None:
        raise BadInput("--eval is for the page", hint="--format html")
    if values["evaluation"] is not None and not values["evaluation"].exists():
        raise BadInput(f"`{values['evaluation']}` does not exist", hint="--eval with the images that the report compared on")
    # It may come from elsewhere, and the other formats show its text unescaped.
    shown = SCHEMA.from_json(_visible(to_json(report, SCHEMA.name)))
    history = _history(values["history"], report)
    if values["plots"] is not None:
        _write_plots(shown, file.parent, history, values["plots"])
    if values["as_json"]:
        print_json(to_json(report, SCHEMA.name))
    elif form == "markdown":
        from squeeze_export.report.markdown import to_markdown

        click.echo(to_markdown(shown))
    elif form == "html":
        from squeeze_export.pipeline.page import beside_of
        from squeeze_export.report.html import to_html

        click.echo(to_html(shown, beside_of(report, file.parent, values["evaluation"], history)))
    else:
        from squeeze_export.report.terminal import print_table

        print_table(shown, stdout_console())


def _history(folder: Path | None, report: Report) -> tuple[Report, ...]:
    """The older reports; says how many files are none."""
    if folder is None:
        return ()
    from squeeze_export.pipeline.page import read_history

    history, others = read_history(folder, report)
    if others:
        warn(f"{others} other JSON file{'s'[: others > 1]} in `{folder}`: no older reports of this network")
    return history


def _write_plots(report: Report, beside: Path, history: tuple[Report, ...], folder: Path) -> None:
    from squeeze_export.files import make_folder, write_files
    from squeeze_export.pipeline.page import ANALYSIS, layer_errors
    from squeeze_export.report.figures import figures_of
    from squeeze_export.report.plots import plots_of

    plots = plots_of(figures_of(report, layer_errors(report, beside / ANALYSIS), history))
    if not plots:
        raise BadInput("the report has no figures to draw: it was neither validated nor timed")
    make_folder(folder)
    write_files({folder / f"{name}.png": png for name, png in plots.items()})
    for name in plots:
        note(f"wrote {folder / name}.png")


def _visible(value: Any) -> Any:
    if isinstance(value, dict):
        return {visible(key): _visible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_visible(item) for item in value]
    return visible(value) if isinstance(value, str) else value
