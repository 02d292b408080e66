"""The docs: every command is there, what they tell to type works, links lead somewhere."""

import os
import re
import shlex
from contextlib import suppress
from pathlib import Path

import click
import pytest

from squeeze_export import errors
from squeeze_export.cli import COMMANDS, cli, known_options

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "calibration/README.md", *ROOT.glob("docs/**/*.md")])
CLI = ROOT / "docs" / "cli.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PUNCTUATION = {"|", ">", ">>", "<", "2>", "&&", "||", ";", "&", ")"}


def blocks(page, language):
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def calls(script):
    """The arguments of every `squeeze-export` in a shell script, as far as the next pipe or redirection."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        found = list(words)
        for index, word in enumerate(found):
            if word == "squeeze-export" and all("=" in before or before in PUNCTUATION for before in found[:index][-1:]):
                rest = found[index + 1 :]
                yield rest[: next((i for i, text in enumerate(rest) if text in PUNCTUATION), len(rest))]


EXAMPLES = [(page, arguments) for page in PAGES if page.exists() for text in blocks(page, "sh") for arguments in calls(text)]


def parse(arguments):
    """Parses without running; an unknown option or a wrong value is a `click.UsageError`."""
    if not arguments or arguments[0].startswith("-"):
        return
    command = cli.get_command(click.Context(cli), arguments[0])
    if command is None:
        raise click.UsageError(f"no command {arguments[0]}")
    with suppress(click.exceptions.Exit):  # --help
        command.make_context(arguments[0], list(arguments[1:]))


def test_shell_lines_are_found():
    script = (
        "make\nX=1 squeeze-export bench a \\\n  b | head # tail\n"
        'eval "$(squeeze-export)"\nsqueeze-export all > x\npip install squeeze-export\n'
    )
    assert list(calls(script)) == [["bench", "a", "b"], ["all"]]
    assert len(EXAMPLES) > 15


@pytest.mark.parametrize(
    ("page", "arguments"), EXAMPLES, ids=lambda value: value.name if isinstance(value, Path) else " ".join(value)
)
def test_examples_parse(page, arguments, monkeypatch):
    for name in [name for name in os.environ if name.startswith("SQUEEZE_EXPORT_")]:
        monkeypatch.delenv(name)
    parse(arguments)


@pytest.mark.parametrize("arguments", [["tflite", "--int4"], ["all", "--threads", "two"], ["prune"], ["bench"]])
def test_a_wrong_example_would_be_found(arguments):
    with pytest.raises(click.UsageError):
        parse(arguments)


def test_every_command_is_documented_with_an_example():
    text = CLI.read_text(encoding="utf-8")
    headings = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert [name for heading in headings for name in heading.split(", ")] == list(COMMANDS)
    assert {arguments[0] for page, arguments in EXAMPLES if page == CLI and arguments} == set(COMMANDS)


def test_options_that_the_page_names_exist():
    known = {f"--{name}" for options in known_options().values() for name in options} | {"--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", CLI.read_text(encoding="utf-8"))) - known == {"--some-option"}


def test_exit_codes():
    rows = re.findall(r"^\| (\d+) \| ", CLI.read_text(encoding="utf-8"), re.MULTILINE)
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    codes |= {kind.exit_code for kind in errors.SqueezeExportError.__subclasses__()}
    assert [int(row) for row in rows] == sorted(codes)


def test_the_settings_example_is_accepted(tmp_path):
    from squeeze_export.cli.settings import default_map

    (text,) = blocks(CLI, "toml")
    (tmp_path / "squeeze-export.toml").write_text(text)
    found = default_map(known_options, tmp_path / "squeeze-export.toml")
    assert (found["tflite"]["int8"], found["onnx"]["threads"], "int8" in found["onnx"]) == (True, 2, False)
    cli.get_command(click.Context(cli), "tflite").make_context("tflite", [], default_map=found["tflite"])


def test_the_inspect_example_prints_what_the_page_says(capsys):
    from squeeze_export.cli import run

    run(["inspect", "--architecture", "squeezenet1_0"])
    assert f"    {capsys.readouterr().out.splitlines()[-1]}\n" in CLI.read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (text,) = blocks(ROOT / "docs" / "python-api.md", "python")
    exec(compile(text, "docs/python-api.md", "exec"), {"__name__": "example"})  # noqa: S102
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed[:4]] == [[t, s] for t in ("onnx", "tflite") for s in ("fp32", "int8")]
    assert printed[-1].startswith("`resnet18` is neither a file nor named weights ")
    assert printed[-1].endswith(" 2")
    assert {path.name for path in tmp_path.iterdir()} == {"all-in-one", "net.int8.table", "step-by-step"}


def test_the_python_page_names_the_whole_api():
    from squeeze_export import pipeline

    text = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    assert [name for name in pipeline.__all__ if f"`{name}`" not in text and f"{name}(" not in text] == []


def anchors(page):
    """GitHub's: lower case, spaces to hyphens, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
