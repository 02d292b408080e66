"""`squeeze-export tflite | onnx | openvino | coreml | all`: files, stdout, stderr."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from squeeze_export.cli import console
from squeeze_export.errors import Refused, Unavailable
from squeeze_export.files import content_sha256, read_content
from squeeze_export.pipeline import network
from squeeze_export.registry import TARGETS
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named

OUT = Path("squeeze-export-out")
FAST = ("--rounds", 2)
FILES_ONLY = ("--no-validate", "--no-bench")
OUR_LINES = re.compile(
    r"(warning: |emulated rows: |compared on \d+ images: |wrote |report |no --weights: |no labels: "
    r"|the Core (ML|AI) file computes in float32, )"
)


def strict(text):
    """JSON without NaN and Infinity."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def sidecar(name):
    return strict((OUT / f"{name}.json").read_text(encoding="utf-8"))


def sha256(path):
    return content_sha256(read_content(path))


def rows_of(target, schemes):
    """Target and scheme of each row: OpenVINO's fp32 file runs a second time, in bf16, where the CPU has it."""
    return [
        [target, scheme] for scheme in schemes for _ in range(2 if (target, scheme) == ("openvino", "fp32") and has_bf16() else 1)
    ]


@cache
def has_bf16():
    with suppress(Unavailable):
        return bool(runtime_named("openvino-bf16").devices())
    return False


def row_runtime(target):
    return target_named(target).RUNTIMES[0]


EMULATED = ("coreml", "coreai")
"""Targets that no runtime here measures."""


def timed_int8(target, scheme):
    """Whether the export says whether int8 is worth it: not where an emulator ran it."""
    return scheme == "int8" and target not in EMULATED


@pytest.mark.parametrize("scheme", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_and_a_scheme(target, scheme, squeeze, net):
    result = squeeze(target, *net, "--scheme", scheme, *FAST)
    assert result.code == 0, result.err
    name = f"squeezenet_custom.{scheme}{target_named(target).SUFFIX}"
    assert {path.name for path in OUT.iterdir()} == {name, f"{name}.json", "report.json", "report.html", "report.md"}
    assert (sidecar(name)["sha256"], sidecar(name)["scheme"]) == (sha256(OUT / name), scheme)
    table, _, verdicts = result.out.partition("\n\n")
    header, *rows = [line.split() for line in table.splitlines()]
    assert header == ["target", "scheme", "device", "size", "agreement", "SQNR", "p50", "speed-up"]
    assert [row[:2] for row in rows] == rows_of(target, dict.fromkeys(("fp32", scheme)))
    assert {row[2].rstrip(",") for row in rows} == {"cpu"}
    assert {row[3] for row in rows if target in EMULATED} <= {"(emulated)"}
    assert [line.split()[0] for line in verdicts.splitlines()] == ([row_runtime(target)] if timed_int8(target, scheme) else [])
    assert f"wrote {OUT / name}\n" in result.err
    assert result.err.endswith(f"report {OUT / 'report.json'}, report.html and report.md\n")


def test_flags_name_schemes(squeeze, net):
    for flag in ("int8", "fp16"):
        assert squeeze("onnx", *net, f"--{flag}", *FILES_ONLY).code == 0
        assert (OUT / f"squeezenet_custom.{flag}.onnx").exists()


def test_all_targets_in_one_table(squeeze, net):
    result = squeeze("all", *net, "--int8", *FAST, "--json")
    report = strict(result.out)
    rows = [[row["target"], row["scheme"]] for row in report["measurements"]]
    assert rows == [row for target in TARGETS for row in rows_of(target, ("fp32", "int8"))]
    for row in report["measurements"]:
        emulated, main = row["target"] in EMULATED, row["runtime"] != "openvino-bf16"
        assert (row["status"], row["evidence"]) == ("ok", "emulated" if emulated else "measured")
        assert row["latency"] is None if emulated else (row["latency"]["speedup"] is None) == (row["scheme"] == "fp32" and main)
    suffixes = [target_named(target).SUFFIX for target in TARGETS]
    assert len({sidecar(f"squeezenet_custom.int8{suffix}")["provenance"]["table_sha256"] for suffix in suffixes}) == 1
    exact = [row for row in report["differences"] if row["first"] == "integer run"]
    assert [row["second"].split()[0] for row in exact] == list(TARGETS)
    assert [row["first_layer"] for row in exact] == [""] * len(TARGETS)
    assert len(report["differences"]) == len(TARGETS) + len(TARGETS) * (len(TARGETS) - 1) // 2
    assert max(row["largest_steps"] for row in report["differences"]) < 2
    verdicts = {verdict["int8"]["runtime"]: verdict for verdict in report["verdicts"]}
    assert list(verdicts) == [row_runtime(target) for target in TARGETS if timed_int8(target, "int8")]
    rivals = [rival["row"]["runtime"] for rival in verdicts["openvino"]["rivals"]]
    assert rivals == (["openvino", "openvino-bf16"] if has_bf16() else ["openvino"])
    assert {verdict["outcome"] for verdict in verdicts.values()} == {"unknown"}  # two rounds tell nothing


def test_json_alone_is_on_stdout(squeeze, net):
    result = squeeze("onnx", *net, "--int8", *FAST, "--json")
    assert strict(result.out) == strict((OUT / "report.json").read_text(encoding="utf-8"))
    assert result.out.isascii()
    assert all(OUR_LINES.match(line) for line in result.err.splitlines()), result.err


@pytest.fixture(scope="module")
def piped(tiny, tmp_path_factory):
    """`squeeze-export all --int8` in a process of its own, its streams read through pipes."""
    options = ["--weights", tiny / "tiny.safetensors", "--calib", tiny / "calib", "--rounds", "2"]
    return subprocess.run(
        [sys.executable, "-m", "squeeze_export", "all", "--int8", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("piped"),
        check=True,
    )


def test_nothing_of_a_terminal_goes_into_a_pipe(piped):
    assert "\x1b" not in piped.stdout + piped.stderr
    assert "\r" not in piped.stdout + piped.stderr
    assert all(line == line.rstrip() for line in piped.stdout.splitlines())


def test_third_parties_say_nothing(piped):
    """C++ libraries write to the descriptor itself, which only another process shows."""
    assert [line for line in piped.stderr.splitlines() if not OUR_LINES.match(line)] == []
    rows = [row for target in TARGETS for row in rows_of(target, ("fp32", "int8"))]
    assert [line.split()[:2] for line in piped.stdout.splitlines()[1:][: len(rows)]] == rows


def without_a_reader(arguments):
    """Runs a command whose stdout nobody reads, as after `| true`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "squeeze_export", *map(str, arguments)]
    with open(writing, "wb") as gone:
        return subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["weights"], ["inspect", "--architecture", "squeezenet1_0"]])
def test_a_reader_who_leaves_early_is_no_failure(arguments):
    """`| head`: click prints the first two, rich the third."""
    done = without_a_reader(arguments)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="a shell's `>&-`")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_is_closed_is_no_failure(closed):
    """`doctor` draws a table on stdout and asks both whether they are terminals; a wrong option is told on stderr."""
    for arguments, code in (("doctor", 0), ("doctor --nonsense", 2)):
        done = subprocess.run(
            ["sh", "-c", f"{sys.executable} -m squeeze_export {arguments} {closed}"], capture_output=True, text=True
        )
        assert done.returncode == code
        assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_reader_who_leaves_early_makes_no_failure_a_success(squeeze, net, form):
    squeeze("onnx", *net, "--scheme", "fp32", *FILES_ONLY)
    done = without_a_reader(["audit", OUT / "squeezenet_custom.fp32.onnx", *form])
    assert (done.returncode, done.stderr) == (Refused.exit_code, "")


def test_progress_is_drawn_on_a_terminal_only(monkeypatch, capsys):
    with console.shown_progress() as progress:
        progress("timing", 1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with console.shown_progress() as progress:
        progress("timing", 1, 2)
        progress("timing", 2, 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "timing" in shown.err


def test_a_terminal_never_stands_still(monkeypatch, capsys):
    """Before the first step, between two, and after the last one something moves, and says for how long."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")

    def lines():
        time.sleep(0.25)  # it is drawn ten times a second
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)

    with console.shown_progress() as progress:
        assert re.search(r"working .*0:00", lines())
        progress("comparing", 1, 4)
        shown = lines()
        assert re.search(r"comparing .* 1/4 0:00", shown)
        assert "working" not in shown.rpartition("comparing")[2]
        progress("comparing", 3, 4)
        assert re.search(r"3/4 0:0\d, 0:0\d left", lines())
        progress("comparing", 4, 4)
        shown = lines()
        assert "comparing" not in shown.rpartition("working")[2]
        progress("comparing", 0, 9)  # once more
        assert re.search(r"comparing .* 0/9 0:00", lines())


@pytest.mark.parametrize("target", TARGETS)
def test_a_table_gives_the_same_bytes_without_any_image(target, squeeze, net, tiny):
    name = f"squeezenet_custom.int8{target_named(target).SUFFIX}"
    squeeze(target, *net, "--int8", *FILES_ONLY)
    wanted = read_content(OUT / name)
    assert squeeze("calibrate", *net, "--out", "tables").code == 0
    table = Path("tables/squeezenet_custom.int8.table")
    with_weights = squeeze(target, "--int8", "--table", table, "--weights", tiny / "tiny.safetensors", "--out", "one", *FAST)
    assert with_weights.code == 0
    assert "warning: not validated: there are no images, give --eval DIR\n" in with_weights.err
    table_alone = squeeze(target, "--int8", "--table", table, "--out", "two", *FAST)
    assert table_alone.code == 0
    assert "warning: not validated: the table was made from another checkpoint, name it with --weights\n" in table_alone.err
    assert "embedded demo network" not in table_alone.err
    assert [read_content(Path(folder) / name) == wanted for folder in ("one", "two")] == [True, True]


def test_neither_validated_nor_timed(squeeze, net):
    report = strict(squeeze("onnx", *net, "--int8", *FILES_ONLY, "--json").out)
    (row,) = report["measurements"]
    assert (row["status"], row["accuracy"], row["latency"], row["device"]) == ("ok", None, None, "")
    assert row["audit"]["violations"] == []
    assert report["evaluation"] == {}


@pytest.mark.parametrize(("option", "shown"), [("4", 4), ("dynamic", "N")])
@pytest.mark.parametrize("target", TARGETS)
def test_batch(target, option, shown, squeeze, net):
    pixels = ("--input", "float32") if target == "coreml" else ()  # an image is one image there
    assert squeeze(target, *net, "--int8", "--batch", option, *pixels, *FAST).code == 0
    name = f"squeezenet_custom.int8{target_named(target).SUFFIX}"
    assert sidecar(name)["input"]["shape"] == [shown, 32, 32, 3]


@pytest.mark.parametrize(("target", "dtype"), [*product(TARGETS, ("uint8", "float32")), ("tflite", "int8")])
def test_input(target, dtype, squeeze, net):
    result = squeeze(target, *net, "--int8", "--input", dtype, *FAST, "--json")
    assert sidecar(f"squeezenet_custom.int8{target_named(target).SUFFIX}")["input"]["dtype"] == dtype
    assert strict(result.out)["measurements"][-1]["accuracy"]["top1_agreement"]["value"] > 0.8


@pytest.mark.parametrize("target", ["onnx", "all"])
def test_pixels_that_a_target_does_not_take(target, squeeze, net):
    message, hint = squeeze(target, *net, "--int8", "--input", "int8").refusal()
    assert message == "onnx files take no `int8` pixels"
    assert hint == "--input uint8 or float32"
    assert not Path("squeeze-export-out").exists()


@pytest.mark.parametrize(("ending", "name"), [("softmax", "probabilities"), ("sigmoid", "scores")])
@pytest.mark.parametrize("target", TARGETS)
def test_softmax_and_sigmoid(target, ending, name, squeeze, net):
    result = squeeze(target, *net, "--int8", f"--{ending}", *FAST, "--json")
    assert sidecar(f"squeezenet_custom.int8{target_named(target).SUFFIX}")["output"]["name"] == name
    assert strict(result.out)["measurements"][0]["accuracy"]["sqnr_db"] > 60


def test_labels_travel_with_the_file(squeeze, net, tiny):
    squeeze("tflite", *net, "--scheme", "fp32", "--labels", tiny / "labels.txt", *FILES_ONLY)
    assert sidecar("squeezenet_custom.fp32.tflite")["labels"] == ["ant", "bee", "cat", "dog", "eel"]


def test_preprocessing_options_reach_the_file(squeeze, net):
    options = ("--mean", "1,2,3", "--std", "4,5,6", "--channel-order", "bgr", "--crop", 40, "--interpolation", "bicubic")
    assert squeeze("onnx", *net, "--scheme", "fp32", *options, *FILES_ONLY).code == 0
    assert sidecar("squeezenet_custom.fp32.onnx")["provenance"]["preprocess"] == {
        "resize_px": 45,  # 36 / 32 of the crop, as in the checkpoint
        "crop_px": 40,
        "interpolation": "bicubic",
        "channel_order": "bgr",
        "mean": [1, 2, 3],
        "std": [4, 5, 6],
    }


def test_an_oblong_crop_and_a_stretched_picture_reach_the_file(squeeze, net):
    assert squeeze("onnx", *net, "--scheme", "fp32", "--crop", "40x56", "--resize-mode", "stretch", *FILES_ONLY).code == 0
    told = sidecar("squeezenet_custom.fp32.onnx")
    preprocess = told["provenance"]["preprocess"]
    assert [preprocess[key] for key in ("resize_px", "crop_px", "width_px", "resize_mode")] == [40, 40, 56, "stretch"]
    assert told["input"]["shape"] == [1, 40, 56, 3]


def test_pinned(squeeze, net):
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system cannot pin")
    before = os.sched_getaffinity(0)
    assert squeeze("onnx", *net, "--cpus", min(before), *FAST).code == 0
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("runtime", ["litert", "litert-builtin"])
def test_another_runtime(runtime, squeeze, net):
    report = strict(squeeze("tflite", *net, "--runtime", runtime, *FAST, "--json").out)
    assert report["measurements"][0]["runtime"] == runtime


def test_the_demo_network_needs_no_file(squeeze):
    result = squeeze("tflite", "--int8", *FAST)
    assert result.code == 0
    assert result.err.startswith("no --weights: this is the embedded demo network, 24 drawn classes at 96 px\n")
    assert "compared on 240 images: the demo network's own evaluation images\n" in result.err
    assert "top-1" in result.out
    assert (OUT / "squeezenet1_1_demo.int8.tflite").exists()


def test_a_target_that_fails_leaves_the_others(squeeze, net):
    """Core ML's image input takes no batch."""
    result = squeeze("all", *net, "--scheme", "fp32", "--batch", 4, *FAST)
    assert result.code == Refused.exit_code == 4
    lines = result.out.splitlines()[1:]
    (coreml,) = [line for line in lines if line.startswith("coreml")]
    others = [line for line in lines if line != coreml]
    target, scheme, device, reason = coreml.split(maxsplit=3)
    assert (target, scheme, device, reason.split(":")[0]) == ("coreml", "fp32", "cpu", "failed")
    assert [line.split()[:2] for line in others] == [row for name in TARGETS if name != "coreml" for row in rows_of(name, ["fp32"])]
    assert (OUT / "squeezenet_custom.fp32.tflite").exists()
    assert not list(OUT.glob("*.mlpackage*"))


def test_the_output_folder_may_hold_an_older_export(squeeze, net):
    for _ in range(2):
        assert squeeze("onnx", *net, "--int8", *FILES_ONLY).code == 0
    assert len(list(OUT.iterdir())) == 5


def test_verbose_lets_warnings_through(squeeze, net, monkeypatch):
    import warnings

    def noisy(*_):
        warnings.warn("third party", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr("squeeze_export.pipeline.job.make_folder", noisy)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: print(message, file=sys.stderr))  # noqa: T201
    Path(OUT).mkdir()
    assert "third party" not in squeeze("onnx", *net, *FILES_ONLY).err
    assert "third party" in squeeze("onnx", *net, *FILES_ONLY, "-v").err


@pytest.mark.parametrize("command", [("onnx", *FILES_ONLY), ("inspect",)])
def test_notes_of_the_reader_are_on_stderr(command, squeeze, net, tiny, monkeypatch):
    given = replace(network.read_checkpoint(tiny / "tiny.safetensors"), notes=("left out: `criterion.weight`",))
    monkeypatch.setattr(network, "read_checkpoint", lambda *_, **__: given)
    result = squeeze(*command, "--weights", tiny / "tiny.safetensors")
    assert (result.code, result.err.splitlines()[0]) == (0, "left out: `criterion.weight`")


def test_a_torch_checkpoint_without_torch_and_one_of_two_networks(squeeze, net, tiny, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    tensors = {key: torch.from_numpy(value) for key, value in load_file(tiny / "tiny.safetensors").items()}
    torch.save({"state_dict": tensors, "state_dict_ema": {key: value + 1 for key, value in tensors.items()}}, tmp_path / "two.ckpt")
    monkeypatch.setitem(sys.modules, "torch", None)
    asked = ("inspect", "--weights", tmp_path / "two.ckpt")
    refused = squeeze(*asked)
    assert (refused.code, "--checkpoint-key state_dict_ema" in refused.err) == (2, True)
    for command in (asked, ("onnx", *FILES_ONLY, *asked[1:])):
        assert squeeze(*command, "--checkpoint-key", "state_dict_ema").code == 0


def test_all_leaves_out_what_a_recipe_is_not_for(squeeze, net):
    """The refusal comes after that, and from what the vendors' tools cannot be asked for."""
    result = squeeze("all", *net, "--int8", "--recipe", "vendor", "--softmax")
    assert "left out: coreai, which the recipe `vendor` is not for\n" in result.err
    assert result.refusal()[0] == "the recipe `vendor` takes one uint8 image and gives logits"
