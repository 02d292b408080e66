"""What a shell completes, asked as click's own shell scripts ask."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from squeeze_export.cli import cli
from squeeze_export.compilers import ethosu, qnn
from squeeze_export.errors import Unavailable
from squeeze_export.nets.download import NAMED_WEIGHTS
from squeeze_export.registry import RULEBOOKS, RUNTIMES
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named

FIRE = ("squeeze1x1", "expand1x1", "expand3x3")


@pytest.fixture
def completed(tmp_path, monkeypatch):
    """`completed("tflite --weights", "squ")`: type and value of everything that is offered."""
    monkeypatch.chdir(tmp_path)

    def ask(line, incomplete=""):
        found = BashComplete(cli, {}, "squeeze-export", "_SQUEEZE_EXPORT_COMPLETE").get_completions(line.split(), incomplete)
        return [(item.type, item.value) for item in found]

    return ask


def plain(names):
    return [("plain", name) for name in names]


def test_commands_and_choices(completed):
    assert completed("", "tf") == plain(["tflite"])
    assert ("plain", "xnnpack") in completed("lint --for")


@pytest.mark.parametrize(
    "line", ["validate", "bench", "audit", "tflite --labels", "tflite --table", "tflite --calib", "tflite --out"]
)
def test_file_names_are_left_to_the_shell(line, completed):
    assert completed(line, "a") == [("file", "a")]


def test_named_weights_stand_beside_the_files_that_begin_alike(completed):
    for name in ("squeezenet1_1.pth", "squad.onnx", "other.pth"):
        Path(name).touch()
    Path("squares").mkdir()
    assert completed("tflite --weights", "squeezenet1_1") == plain(["squeezenet1_1", "squeezenet1_1.pth"])
    assert completed("tflite --weights", "sq") == plain([*NAMED_WEIGHTS, "squad.onnx", "squares/", "squeezenet1_1.pth"])
    assert completed("tflite --weights", "oth") == [("file", "oth")]
    assert completed("weights") == plain(NAMED_WEIGHTS)


def test_runtimes_are_those_of_the_target(completed):
    assert completed("tflite --runtime") == plain(target_named("tflite").RUNTIMES)
    assert completed("onnx --runtime", "on") == plain(["onnxruntime"])
    assert {value for _, value in completed("bench --runtime")} >= set(RUNTIMES)


def test_devices_are_those_of_the_runtime(completed):
    assert completed("onnx --device", "ten") == plain(["tensorrt"])
    assert completed("tflite --device") == plain(["cpu", "gpu", "npu"])
    assert completed("tflite --runtime tflite-micro --device") == plain(["cpu"])
    assert completed("bench --runtime torch --device") == plain(["cpu", "cuda"])
    assert completed("qnn --device") == plain(["htp-emulator", "htp"])
    assert {value for _, value in completed("validate --device")} >= {"cpu", "tensorrt", "htp", "npu"}


@pytest.mark.parametrize("name", RUNTIMES)
def test_no_device_of_this_machine_is_missing_among_those_that_are_completed(name):
    runtime = runtime_named(name)
    try:
        present = runtime.devices()
    except Unavailable:
        pytest.skip(f"{name} is not installed")
    assert {device.split(".")[0] for device in present} <= set(runtime.DEVICE_NAMES)


def test_chips_are_completed_from_the_lists_of_their_compilers_and_rules(completed):
    assert completed("lint --for") == plain(RULEBOOKS)
    assert completed("ethosu --accelerator", "ethos-u65") == plain([chip for chip in ethosu.CHIPS if "u65" in chip])
    assert completed("qnn --soc") == plain([*qnn.CHIPS, "all"])


def test_completion_imports_no_framework(tmp_path):
    """What a shell asks for at every press of the tab key."""
    code = """
import sys
from click.shell_completion import BashComplete
from squeeze_export.cli import cli
for line in ("onnx --device", "bench --device", "tflite --runtime", "ethosu --accelerator", "qnn --soc", "lint --for"):
    assert BashComplete(cli, {}, "squeeze-export", "X").get_completions(line.split(), ""), line
print(sorted({"torch", "onnxruntime", "openvino", "tensorflow", "ai_edge_litert", "coremltools", "onnx"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_layers_are_those_of_the_network(completed, tiny, monkeypatch):
    def no_download(*_, **__):
        raise AssertionError("downloaded")

    monkeypatch.setattr("squeeze_export.nets.download.fetch_weights", no_download)
    monkeypatch.setattr("squeeze_export.pipeline.network.fetch_weights", no_download)
    own = ["conv1", *(f"fire{fire}/{layer}" for fire in (2, 3) for layer in FIRE), "conv10"]
    assert completed(f"tflite --int8 --weights {tiny / 'tiny.safetensors'} --keep-float") == plain(own)
    assert completed("analyze --weights squeezenet1_0 --keep-float", "fire9") == plain([f"fire9/{layer}" for layer in FIRE])
    assert ("plain", "fire9/squeeze1x1") in completed("tflite --keep-float")  # the demo network
    Path("broken.pth").write_bytes(b"no network")
    assert completed("tflite --weights broken.pth --keep-float") == []
    assert completed("tflite --weights nothere.pth --keep-float") == []
