"""Every command in the docs is run, page by page in the page's order; what cannot be run here is listed, with the reason."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from doc_pages import PAGES, PROGRAM, ROOT, Command, commands, name_of

from squeeze_export.cli import cli

EXPECTED = {"squeeze-export audit squeeze-export-out/squeezenet1_1.int8.tflite other-tools.onnx": 4}
"""Exit codes other than 0; the page tells each."""

NOT_RUN = {
    "make demo": "installs; CI runs what it runs",
    "make test": "installs, and runs this very test",
    "pip install .[all]": "installs",
    "squeeze-export tflite --int8 --weights squeezenet1_1.pth --calib imgs/ --device gpu": (
        "needs a GPU; tests/runtimes runs LiteRT's through a software driver"
    ),
    **dict.fromkeys(
        (
            "squeeze-export executorch --weights squeezenet1_1.pth --calib imgs/",
            "squeeze-export toolchain install executorch",
            "squeeze-export toolchain remove executorch",
        ),
        "needs a toolchain of a gigabyte; tests/workers installs a small one, and runs the real one where it is installed",
    ),
    "python -m benchmarks.gpu": "needs a GPU; tests/benchmarks runs it as far as no such device",
    "python -m tools.demo.train": "trains for minutes; tests/tools trains a smaller one",
    **dict.fromkeys(
        (
            "squeeze-export bench squeezenet1_1.fp32.tflite squeezenet1_1.int8.tflite --on ssh://pi@raspberrypi.local",
            "squeeze-export tflite --int8 --weights squeezenet1_1.pth --calib imgs/ --eval val/ --on ssh://pi@raspberrypi.local"
            " --threads 4",
            "squeeze-export validate squeezenet1_1.int8.onnx --eval val/ --weights squeezenet1_1.pth --on ssh://nvidia@jetson:2222",
            "squeeze-export bench squeeze-export-out/squeezenet1_1_demo.int8.tflite --on ssh://pi@raspberrypi.local",
            "squeeze-export bench squeezenet1_1.int8.tflite --on adb://R58M12ABCDE --benchmark-binary benchmark_model",
        ),
        "needs a board; tests/remote runs the same against an sshd on loopback and a stand-in for adb",
    ),
}
"""Command -> why not. Of ours they are parsed all the same."""
NEEDS = {
    "onnx": ("onnx", "onnxruntime"),
    "tflite": ("ai_edge_litert", "flatbuffers"),
    "openvino": ("openvino",),
    "coreml": ("coremltools",),
    "coreai": ("coreai",),
}
COMPILERS = {"ethosu": ("ethosu", "ai_edge_litert", "flatbuffers"), "qnn": ("onnxruntime_qnn", "onnx", "onnxruntime")}
"""What the commands need that compile for a chip."""
VENDORS = {"onnx": ("onnxruntime",), "tflite": ("tensorflow",), "openvino": ("nncf", "torch"), "coreml": ("torch",), "coreai": ()}
"""Target -> what a command needs beyond the base; with `--recipe vendor`."""

FOUND = {name_of(page): commands(page.read_text(encoding="utf-8")) for page in PAGES}


def needed(command: Command) -> tuple[str, ...]:
    """The modules that a command cannot do without."""
    targets = list(NEEDS) if command.words[1:2] == ("all",) else [word for word in command.words[1:2] if word in NEEDS]
    modules = [module for target in targets for module in NEEDS[target]]
    modules += [module for word in command.words[1:2] for module in COMPILERS.get(word, ())]
    if "tflite-micro" in command.words:
        modules.append("tflite_micro")
    if "--recipe" in command.words:
        modules += [module for target in targets for module in VENDORS[target]]
    return tuple(modules)


def absent(command: Command) -> list[str]:
    return [module for module in needed(command) if importlib.util.find_spec(module) is None]


def failures(found: Sequence[Command], typed) -> list[str]:
    """What goes wrong when these are typed one after the other, those without their packages left out."""
    wrong = []
    for command in found:
        if command.words[0] != PROGRAM or absent(command) or command.text in NOT_RUN:
            continue
        code, err = typed(command)
        if code != EXPECTED.get(command.text, 0):
            wrong.append(f"{command.text}: exit code {code}\n{err}")
    return wrong


@pytest.mark.parametrize("page", [page for page, found in FOUND.items() if any(c.words[0] == PROGRAM for c in found)])
def test_the_commands_of_a_page(page, exported, typed, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    shutil.copytree(exported, folder)
    monkeypatch.chdir(folder)
    assert failures(FOUND[page], typed) == []


@pytest.mark.parametrize("command", [c for found in FOUND.values() for c in found if needed(c)], ids=lambda command: command.text)
def test_what_a_command_needs_is_installed(command):
    """Names what the test above left out."""
    if absent(command):
        pytest.skip(f"not run, without {', '.join(absent(command))}: {command.text}")


def test_what_is_not_run_is_listed_and_there():
    others = {command.text for found in FOUND.values() for command in found if command.words[0] != PROGRAM}
    assert others <= set(NOT_RUN) <= {command.text for found in FOUND.values() for command in found}


def test_expected_codes_are_of_commands_that_are_there():
    assert set(EXPECTED) <= {command.text for found in FOUND.values() for command in found}


def test_what_is_not_run_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for text in NOT_RUN:
        program, *rest = text.split()
        if program == "make":
            assert re.search(rf"^{rest[0]}:", makefile, re.MULTILINE), text
        elif program == "pip":
            for extra in rest[1].strip(".[]").split(","):
                assert re.search(rf"^{extra} = \[", project, re.MULTILINE), text
        elif program == PROGRAM:
            command = cli.get_command(click.Context(cli), rest[0])
            assert command is not None, text
            assert command.make_context(rest[0], rest[1:]), text
        else:
            assert importlib.util.find_spec(rest[1]), text


def test_commands_are_found():
    page = (
        'Prose.\n\n```sh\nX=1 squeeze-export bench a \\\n  b | head # tail\neval "$(Y=2 squeeze-export)"\nsqueeze-export all > x\n'
        "```\n\n    target  size\n    python -m x\n\n```sh\nmake  # c\n```\n"
    )
    assert commands(page) == [
        Command(("squeeze-export", "bench", "a", "b"), {"X": "1"}),
        Command(("squeeze-export",), {"Y": "2"}),
        Command(("squeeze-export", "all"), {}, "x"),
        Command(("python", "-m", "x"), {}),
        Command(("make",), {}),
    ]
    assert len([command for found in FOUND.values() for command in found if command.words[0] == PROGRAM]) > 30


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("squeeze-export tflite --int4", 2),
        ("squeeze-export prune", 2),
        ("squeeze-export weights squeezenet9", 2),
        ("squeeze-export audit squeezenet1_1.int8.onnx other-tools.onnx", 4),
        ("squeeze-export report squeeze-export-out/report.json", 2),
        ("SQUEEZE_EXPORT_THREADS=two squeeze-export bench squeezenet1_1.int8.onnx", 2),
    ],
)
def test_a_wrong_command_is_found(line, code, exported, typed, monkeypatch):
    monkeypatch.chdir(exported)
    (found,) = failures(commands(f"```sh\n{line}\n```\n"), typed)
    assert f": exit code {code}\n" in found


def test_a_folder_of_the_page_is_made_anew(exported):
    assert not (exported / "squeeze-export-out").exists()
    assert {path.name for path in Path(exported).glob("squeezenet1_1.int8.*") if path.suffix != ".json"} == {
        f"squeezenet1_1.int8.{suffix}" for suffix in ("onnx", "tflite", "openvino", "mlpackage", "aimodel")
    }
