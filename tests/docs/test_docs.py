"""The docs: what they say of commands, options, targets and the API is so, and links lead somewhere."""

import re
from contextlib import suppress

import click
import pytest
from doc_pages import PAGES, PROGRAM, ROOT, blocks, commands, name_of, without_blocks

from squeeze_export import demo, errors
from squeeze_export.cli import COMMANDS, cli, known_options
from squeeze_export.peers import peer_of
from squeeze_export.registry import PEERS, RUNTIMES, TARGETS
from squeeze_export.targets import target_named

CLI = ROOT / "docs" / "cli.md"
NO_OPTIONS_OF_OURS = {"--some-option", "--help", "--version", "--strict"}
TARGET_INDEX = ROOT / "docs" / "targets.md"
INLINE = re.compile(rf"`{PROGRAM} ([a-z][^`]*)`")


def parse(arguments):
    """Parses without running; an unknown option or a wrong value is a `click.UsageError`."""
    command = cli.get_command(click.Context(cli), arguments[0])
    if command is None:
        raise click.UsageError(f"no command {arguments[0]}")
    with suppress(click.exceptions.Exit):  # --help
        command.make_context(arguments[0], list(arguments[1:]))


def rows(page, heading):
    """The cells of the first table under a heading, without its head; code marks are taken off."""
    section = re.split(rf"^#+ {heading}$", page.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)[1]
    lines = [line for line in section.split("\n\n#")[0].splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines[2:]]


INLINE_COMMANDS = [
    (page, text.split()) for page in PAGES for text in INLINE.findall(without_blocks(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize(
    ("page", "arguments"), INLINE_COMMANDS, ids=[f"{name_of(page)} {' '.join(words)}" for page, words in INLINE_COMMANDS]
)
def test_commands_in_the_prose_parse(page, arguments):
    if arguments[0] not in ("myformat",):  # the target that a contributor adds
        parse(arguments)


@pytest.mark.parametrize("arguments", [["tflite", "--int4"], ["all", "--threads", "two"], ["prune"], ["bench"]])
def test_a_wrong_command_in_the_prose_is_found(arguments):
    with pytest.raises(click.UsageError):
        parse(arguments)


def test_every_command_is_documented_with_an_example():
    text = CLI.read_text(encoding="utf-8")
    headings = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert [name for heading in headings for name in heading.split(", ")] == list(COMMANDS)
    assert {command.words[1] for command in commands(text) if command.words[1:]} == set(COMMANDS)


def options_in(page):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", page.read_text(encoding="utf-8")))


def test_every_option_that_a_page_names_exists_and_the_cli_page_names_all():
    known = {f"--{name}" for options in known_options().values() for name in options}
    for page in PAGES:
        assert options_in(page) - known <= NO_OPTIONS_OF_OURS, page
    assert known - options_in(CLI) == set()


def test_the_table_of_targets_is_the_registry():
    found = {cells[0]: cells[1:] for cells in rows(TARGET_INDEX, "Targets")}
    assert list(found) == list(TARGETS)
    for name, (file, schemes, runtimes, guide) in found.items():
        target = target_named(name)
        assert file.endswith(f"<network>.<scheme>{target.SUFFIX}")
        assert tuple(schemes.split(", ")) == target.SCHEMES
        assert set(re.sub(r"\(.*\)", "", runtimes).strip().split(", ")) == set(target.RUNTIMES)
        assert f"(targets/{name}.md)" in guide
        assert (ROOT / "docs" / "targets" / f"{name}.md").exists()


def test_every_guide_tells_the_same_three_things():
    for name in TARGETS:
        headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "targets" / f"{name}.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert [re.sub("file|folder|package", "file", heading) for heading in headings] == [
            "What is in the file",
            "Run it",
            "Limits",
        ]


def test_the_table_of_runtimes_is_the_registry():
    assert {cells[0] for cells in rows(TARGET_INDEX, "Runtimes")} == set(RUNTIMES)


def test_the_table_of_recipes_is_the_peers():
    found = {cells[0]: tuple(cells[1].split(", ")) for cells in rows(CLI, "The vendors' recipes")}
    assert found == {target: tuple(peer_of(target).METHODS) for target in PEERS}


def test_exit_codes():
    rows = re.findall(r"^\| (\d+) \| ", CLI.read_text(encoding="utf-8"), re.MULTILINE)
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    codes |= {kind.exit_code for kind in errors.SqueezeExportError.__subclasses__()}
    assert [int(row) for row in rows] == sorted(codes)


def test_the_settings_example_is_accepted(tmp_path):
    from squeeze_export.cli.settings import default_map

    (text,) = blocks(CLI.read_text(encoding="utf-8"), "toml")
    (tmp_path / "squeeze-export.toml").write_text(text)
    found = default_map(known_options, tmp_path / "squeeze-export.toml")
    assert (found["tflite"]["int8"], found["onnx"]["threads"], "int8" in found["onnx"]) == (True, 2, False)
    cli.get_command(click.Context(cli), "tflite").make_context("tflite", [], default_map=found["tflite"])


def test_the_inspect_example_prints_what_the_page_says(capsys):
    from squeeze_export.cli import run

    run(["inspect", "--architecture", "squeezenet1_0"])
    assert f"    {capsys.readouterr().out.splitlines()[-1]}\n" in CLI.read_text(encoding="utf-8")


def test_the_python_example_runs(named_files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "evaluation_folder", lambda: named_files / "val")  # 4 of the 240
    monkeypatch.setattr(demo, "calibration_folder", lambda: named_files / "imgs")
    monkeypatch.chdir(tmp_path)
    (text,) = blocks((ROOT / "docs" / "python-api.md").read_text(encoding="utf-8"), "python")
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
    headings = re.findall(r"^#+ (.+)$", without_blocks(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = without_blocks(page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_what_the_architecture_page_names_exists():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:squeeze_export|tests|benchmarks|tools|calibration|docs)/[\w./-]*)`", text)
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_architecture_page_names_every_room():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.stem for path in (ROOT / "squeeze_export").iterdir() if not path.name.startswith(("_", "py"))}
    drawn = set(re.findall(r"\w+", "\n".join(line for line in text.splitlines() if line.startswith("    "))))
    assert rooms - drawn == {"demo"}  # data, and where it lies


FORM = re.compile(r"^## (.+)$|^Tests in `([^`]+)`|^\|.+\| `([\w./]+)::(\w+)` \|$", re.MULTILINE)


def forms(text):
    """The file and name of the test in each row of the tables of forms."""
    folder = ""
    for heading, named, file, test in FORM.findall(text):
        if heading or named:
            folder = named
        else:
            yield ROOT / (file if file.startswith("tests/") else folder + file), test


def without_test(text):
    """The rows' tests that are not there."""
    found = list(forms(text))
    assert len(found) == len(re.findall(r"^\| (?!form)", text, re.MULTILINE))  # every row names one
    return [test for file, test in found if not file.is_file() or f"def {test}(" not in file.read_text(encoding="utf-8")]


def test_every_form_has_its_test():
    text = (ROOT / "docs" / "forms.md").read_text(encoding="utf-8")
    assert len(list(forms(text))) >= 40
    assert without_test(text) == []


def test_a_form_without_its_test_is_found():
    """Negative control."""
    head = "## Labels\n\nTests in `tests/docs/`, if no other folder is named.\n\n| form | what is done | test |\n|---|---|---|\n"
    assert without_test(head + "| a | b | `test_docs.py::test_every_form_has_its_test` |\n") == []
    assert without_test(head + "| a | b | `test_docs.py::test_no_such` |\n") == ["test_no_such"]
