"""A target, its format, a runtime and a compiler of another distribution, found by their entry points; the rest has defaults."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from squeeze_export.cli import COMMANDS, commands, known_options
from squeeze_export.cli import run as command_line
from squeeze_export.compilers import compiler_named
from squeeze_export.core import EmitOptions
from squeeze_export.errors import EXIT_DONE, BadInput, Refused
from squeeze_export.pipeline import audit_file
from squeeze_export.pipeline.export import read_artifact
from squeeze_export.targets import check_carries, target_named

TARGET = """
from squeeze_export.targets import onnx

NAME = "example"
SUFFIX = ".example"
SCHEMES = ("fp32", "int8")


def emit(network, scheme, options, metadata):
    return onnx.emit(network, scheme, options, metadata)
"""

FORMAT = """
from squeeze_export.formats.onnx import POLICY, read

NAME, SUFFIX = "example", ".example"
"""

RUNTIME = """
from squeeze_export.runtimes import onnxruntime

NAME = "example-runtime"
TARGETS = ("example",)
devices, open_session = onnxruntime.devices, onnxruntime.open_session
"""

COMPILER = """
from squeeze_export.compilers import Compiled

NAME, TARGET, SCHEMES = "chip", "onnx", ("int8",)
SUFFIX = "_chip.onnx"
CHIPS = ("chip-1", "chip-2")


def compile_for(artifact, chip, settings, folder):
    return Compiled(artifact.path.read_bytes() + chip.encode(), {})
"""

ENTRY_POINTS = """
[squeeze_export.targets]
example = example_target
[squeeze_export.formats]
example = example_format
[squeeze_export.runtimes]
example-runtime = example_runtime
[squeeze_export.compilers]
chip = example_compiler
"""
MODULES = {"example_target": TARGET, "example_format": FORMAT, "example_runtime": RUNTIME, "example_compiler": COMPILER}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The distribution, as pip lays it down."""
    folder = tmp_path / "site"
    info = folder / "example-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    yield info
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def arguments(tiny: Path, tmp_path: Path) -> list[str]:
    """Of a command: the tiny network, its images, a folder."""
    named = {
        "weights": tiny / "tiny.safetensors",
        "calib": tiny / "calib",
        "eval": tiny / "eval",
        "out": tmp_path / "out",
        "rounds": 2,
    }
    return [str(part) for name, value in named.items() for part in (f"--{name}", value)]


@pytest.mark.usefixtures("installed")
def test_the_target_is_a_command(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exported, described, audited, validated by the runtime that was installed with it, and timed."""
    assert command_line(["example", "--int8", *arguments]) == EXIT_DONE
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(row["target"], row["scheme"], row["runtime"]) for row in report["measurements"]] == [
        ("example", scheme, "example-runtime") for scheme in ("fp32", "int8")
    ]
    assert all(row["accuracy"]["count"] and row["latency"] for row in report["measurements"])
    path = tmp_path / "out" / "squeezenet_custom.int8.example"
    artifact = read_artifact(path)
    assert (artifact.target, artifact.input.dtype, artifact.audit.violations) == ("example", "uint8", ())
    assert audit_file(path) == artifact.audit
    capsys.readouterr()
    assert command_line(["--help"]) == EXIT_DONE
    assert "\n  example     Export to example; validate and time it.\n" in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
def test_what_the_target_leaves_out_has_defaults() -> None:
    target = target_named("example")
    assert (target.INPUTS, target.RUNTIMES, target.PACKAGES) == (("uint8", "float32"), (), ())
    with pytest.raises(BadInput, match="example does not carry the scheme `w8`"):
        check_carries("example", "w8", EmitOptions())
    assert known_options()["example"]["calib"] == "calib"


def test_a_target_that_nothing_runs_is_written_and_no_more(
    installed: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = installed / "entry_points.txt"
    points.write_text(points.read_text().replace("[squeeze_export.runtimes]\nexample-runtime = example_runtime\n", ""))
    assert command_line(["example", "--int8", *arguments]) == BadInput.exit_code
    error = capsys.readouterr().err
    assert "nothing here runs example files" in error
    assert "--no-validate --no-bench" in error
    assert command_line(["example", "--int8", "--no-validate", "--no-bench", *arguments]) == EXIT_DONE
    assert (tmp_path / "out" / "squeezenet_custom.int8.example").is_file()


@pytest.mark.usefixtures("installed")
def test_the_compiler_is_a_command(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["chip", "--chip", "all", *arguments]) == EXIT_DONE
    for chip in ("chip-1", "chip-2"):
        path = tmp_path / "out" / f"squeezenet_custom.int8.{chip}_chip.onnx"
        assert read_artifact(path).provenance["chip"] == chip
        with pytest.raises(BadInput, match="is a file of the compiler chip"):
            audit_file(path)
    capsys.readouterr()
    assert command_line(["--help"]) == EXIT_DONE
    assert "\n  chip        Compile for chip.\n" in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
def test_what_the_compiler_leaves_out_has_defaults() -> None:
    compiler = compiler_named("chip")
    assert (compiler.RUNTIMES, compiler.PACKAGES) == ((), ())
    compiler.check("chip-1", {})
    with pytest.raises(BadInput, match="chip does not compile for `chip-3`"):
        compiler.check("chip-3", {})
    with pytest.raises(BadInput, match="chip has no setting `speed`"):
        compiler.check("chip-1", {"speed": "high"})


def test_a_target_without_emit_is_refused(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (installed.parent / "example_target.py").write_text(TARGET.partition("def emit")[0])
    assert command_line(["example", "--help"]) == Refused.exit_code
    assert "`example_target` is no target: it lacks `emit`" in capsys.readouterr().err


def test_what_breaks_in_another_distribution_stops_nothing_else(
    installed: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("example_format", "example_compiler"):
        (installed.parent / f"{name}.py").write_text("raise RuntimeError('no luck')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "squeeze-export.toml").write_text("[onnx]\nrounds = 2\n")
    assert command_line(["onnx", "--int8", *arguments, "--no-validate", "--no-bench"]) == EXIT_DONE
    assert command_line(["audit", str(next(tmp_path.rglob("*.onnx")))]) == EXIT_DONE
    capsys.readouterr()
    assert command_line(["chip", "--help"]) == Refused.exit_code  # negative control: asked for by its name, it says why
    assert "the compiler `chip` breaks when it is imported: RuntimeError: no luck" in capsys.readouterr().err


def test_an_added_format_takes_no_ending_from_ours(installed: Path, tmp_path: Path) -> None:
    source = FORMAT.replace('".example"', '".onnx"').replace("describe, read", "describe")
    (installed.parent / "example_format.py").write_text(f"{source}\n\ndef read(path):\n    raise RuntimeError('not ours')\n")
    (tmp_path / "a.onnx").write_bytes(b"none")
    with pytest.raises(BadInput, match="is not a sound ONNX file"):
        audit_file(tmp_path / "a.onnx")


def test_nothing_is_added_where_nothing_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    """Negative control."""
    assert list(commands()) == list(COMMANDS)
    assert command_line(["example"]) == BadInput.exit_code
    assert "No such command 'example'" in capsys.readouterr().err
