"""Android by adb, against a stand-in `adb`: there is no phone here. What it prints is taken from benchmark_model's own sources."""

import os
import sys
from pathlib import Path

import pytest

from squeeze_export import cli
from squeeze_export.errors import BadInput, GateUndecided, Refused, Unavailable
from squeeze_export.pipeline import RunOptions, bench_files, check_full_placement
from squeeze_export.pipeline.sessions import reached
from squeeze_export.remote.adb import sample_ns

ADB = """#!{python}
import os, subprocess, sys
root, arguments = os.environ["PHONE"], sys.argv[1:]
with open(root + "/calls", "a") as log:
    log.write(" ".join(arguments) + "\\n")
fault = os.environ.get("PHONE_FAULT", "")
if arguments[:2] != ["-s", "R58M"]:
    sys.exit("adb: device '" + arguments[1] + "' not found")
if fault == "unauthorized":
    sys.exit("adb: device unauthorized.")
kind, *rest = arguments[2:]
rest = [text.replace("/data/local/tmp", root + "/tmp") for text in rest]
if kind == "push":
    if fault == "full" and rest[1].endswith(".tflite"):
        sys.exit("adb: error: failed to copy: remote couldn't create file: No space left on device")
    done = subprocess.run(["cp", *rest])
else:
    done = subprocess.run(["sh", "-c", rest[0]], env={{**os.environ, "PATH": root + "/bin:" + os.environ["PATH"]}})
sys.exit(done.returncode)
"""
GETPROP = """case "$1" in
ro.product.model) echo "SM-S911B";; ro.soc.model) echo "SM8550";; ro.build.version.release) echo 14;;
ro.product.cpu.abi) echo arm64-v8a;; ro.kernel.qemu) echo "$PHONE_QEMU";; *) echo "";; esac
"""
BENCHMARK = """echo "INFO: Log parameter values verbosely: [0]"
echo "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
echo "VERBOSE: Replacing 39 out of 40 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 2 partitions for subgraph 0."
echo "INFO: Explicitly applied XNNPACK delegate, and the model graph will be partially executed by the delegate" \\
  "w/ 1 delegate kernels."
echo "INFO: Initialized session in 12.2ms."
echo "INFO: Running benchmark for at least 10 iterations and at least 0 seconds but terminate if exceeding 150 seconds."
echo "INFO: count=10 first=3200 curr=2900 min=2888 max=3200 avg=2950.1 std=80"
echo ""
[ "$PHONE_FAULT" = crash ] && echo "Segmentation fault" && exit 139
echo "INFO: Running benchmark for at least 1 iterations and at least 0 seconds but terminate if exceeding 150 seconds."
case "$1" in *1.tflite) echo "INFO: count=1 curr=9000";; *) echo "INFO: count=1 curr=3000";; esac
echo "INFO: Inference timings in us: Init: 12200, First inference: 3200, Warmup (avg): 2950.1, Inference (avg): 3000"
"""


@pytest.fixture
def phone(tmp_path, monkeypatch) -> Path:
    """The stand-in's folder: bin/, tmp/ for /data/local/tmp, calls. There is a `benchmark_model` beside it."""
    root = tmp_path / "phone"
    for folder in ("bin", "tmp", "path"):
        (root / folder).mkdir(parents=True)
    programs = {"path/adb": ADB.format(python=sys.executable), "bin/getprop": f"#!/bin/sh\n{GETPROP}"}
    programs["bin/dumpsys"] = "#!/bin/sh\necho 'Thermal Status: 2'\n"
    for name, text in programs.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    (tmp_path / "benchmark_model").write_text(f"#!/bin/sh\n{BENCHMARK}")
    monkeypatch.setenv("PATH", f"{root / 'path'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PHONE", str(root))
    return root


def at(phone, serial="R58M"):
    return reached(RunOptions(on=f"adb://{serial}", benchmark_binary=phone.parent / "benchmark_model"))


def options(phone) -> RunOptions:
    return RunOptions(on="adb://R58M", benchmark_binary=phone.parent / "benchmark_model", rounds=4)


def test_files_take_turns_and_every_sample_is_kept(phone, tflite):
    report = bench_files([tflite["fp32"].path, tflite["int8"].path], options=options(phone))
    assert [row.latency.samples_ns for row in report.measurements] == [(9_000_000,) * 4, (3_000_000,) * 4]
    assert report.measurements[1].latency.speedup.value == 3
    for row in report.measurements:
        assert (row.runtime, row.kernels, row.placement, row.accuracy) == ("benchmark_model", "XNNPACK, builtin", None, None)
        expected = {"on": "adb", "board": "SM-S911B", "soc": "SM8550", "thermal_status": 2, "thermal_status_after": 2}
        expected |= {"delegated_nodes": 39, "nodes": 40, "logits": "not given by benchmark_model"}
        assert expected.items() <= row.facts.items()
    with pytest.raises(GateUndecided, match="does not tell where its operators ran"):
        check_full_placement(report.measurements)
    runs = [call.split("--graph=")[1].split()[0][-8] for call in (phone / "calls").read_text().splitlines() if "--graph=" in call]
    assert runs == ["1", "2", "1", "2", "2", "1", "1", "2", "2", "1"]  # opened, then in turns
    assert os.listdir(phone / "tmp") == []


def test_flags(phone, tflite):
    bench_files([tflite["int8"].path], options=options(phone))
    call = next(call for call in (phone / "calls").read_text().splitlines() if "--warmup_runs=10" in call)
    for flag in ("--num_threads=1", "--use_xnnpack=true", "--num_runs=1", "--min_secs=0", "--warmup_min_secs=0"):
        assert flag in call.split()


def test_an_export_is_timed_but_not_validated(phone, tiny, tmp_path, capsys):
    names = ["--weights", str(tiny / "tiny.safetensors"), "--eval", str(tiny / "eval"), "--out", str(tmp_path / "out")]
    names += ["--on", "adb://R58M", "--benchmark-binary", str(phone.parent / "benchmark_model"), "--rounds", "2"]
    pytest.importorskip("ai_edge_litert")
    assert cli.run(["tflite", *names]) == 0
    out, err = capsys.readouterr()
    assert "ms" in out
    assert "warning: not validated: benchmark_model gives no logits" in err


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("unauthorized", Unavailable, "adb does not reach `R58M`: adb: device unauthorized"),
        ("full", Unavailable, "the device `R58M` is full"),
        ("crash", Refused, "the device `R58M` failed: .*Segmentation fault"),
    ],
)
def test_faults_leave_nothing(phone, tflite, monkeypatch, fault, kind, message):
    monkeypatch.setenv("PHONE_FAULT", fault)
    with pytest.raises(kind, match=message):
        bench_files([tflite["int8"].path], options=options(phone))
    assert os.listdir(phone / "tmp") == []


def test_an_emulator_is_not_timed(phone, monkeypatch):
    monkeypatch.setenv("PHONE_QEMU", "1")
    with pytest.raises(Unavailable, match="is an emulator"), at(phone):
        raise AssertionError("never reached")


def test_another_serial(phone):
    with pytest.raises(Unavailable, match="adb does not reach `OTHER`"), at(phone, "OTHER"):
        raise AssertionError("never reached")


def test_no_adb(phone, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match="`adb` is not installed"), at(phone):
        raise AssertionError("never reached")


def test_no_binary(phone, tmp_path):
    for binary, message in ((None, "runs LiteRT's benchmark_model"), (tmp_path / "nothing", "is no file")):
        with pytest.raises(BadInput, match=message), reached(RunOptions(on="adb://R58M", benchmark_binary=binary)):
            raise AssertionError("never reached")


def test_what_it_does_not_run(phone, tflite, onnx, pixels):
    with at(phone) as board:
        with pytest.raises(Unavailable, match="opens TFLite files, not onnx"):
            board.open_session(onnx["int8"], runtime=None, device="cpu", threads=1)
        with pytest.raises(BadInput, match="is not run by adb"):
            board.open_session(tflite["int8"], runtime="litert", device="cpu", threads=1)
        with pytest.raises(Unavailable, match="not on `gpu`"):
            board.open_session(tflite["int8"], runtime=None, device="gpu", threads=1)
        with pytest.raises(Unavailable, match="gives no logits"):
            board.open_session(tflite["int8"], runtime=None, device="cpu", threads=1).infer(pixels)


WARMED = "Running benchmark for at least 1 iterations\ncount=1 curr=5\n"


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (f"{WARMED}\nRunning benchmark for at least 1 iterations\ncount=1 curr=2540\n", 2_540_000),
        (f"{WARMED}\nINFO: Running benchmark for at least 1 iterations\nINFO: count=1 curr=1.14e+07 p5=1.1e+07\n", 11_400_000_000),
    ],
)
def test_one_timed_inference(printed, expected):
    assert sample_ns(printed) == expected


@pytest.mark.parametrize(
    "printed",
    [
        "",
        WARMED,  # the warm-up alone
        f"{WARMED}Running benchmark for at least 1 iterations\ncount=0\n",
        f"{WARMED}Running benchmark for at least 1 iterations\ncount=50 first=3 curr=2 min=1 max=3 avg=2 std=0\n",
    ],
)
def test_statistics_are_no_sample(printed):
    with pytest.raises(Refused, match="benchmark_model timed nothing"):
        sample_ns(printed)
