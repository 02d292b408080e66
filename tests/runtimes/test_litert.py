"""The TFLite runtimes: what a session answers, what it says of itself, what it refuses, and that it keeps stderr clean."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert_interpreter
from ai_edge_litert import schema_py_generated as schema

from squeeze_export.core import Artifact
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.runtimes import runtime_named
from squeeze_export.runtimes.tflite import litert
from squeeze_export.runtimes.tflite.interpreter import LITERT_BUILTIN, TENSORFLOW_LITE, TFLITE_RUNTIME, takes_pixels
from squeeze_export.runtimes.tflite.placement import contents_of, kernels_and_placement
from squeeze_export.targets import tflite
from tests.runtimes.tflite_files import artifact, emitted, small, table

PIXELS = small()[1][16:]


def test_a_session_reports_what_the_interpreter_says(tmp_path: Path) -> None:
    session = litert.open_session(emitted(tmp_path), device="cpu", threads=2)
    assert (session.runtime, session.device, session.threads, session.kernels) == ("litert", "cpu", 2, "XNNPACK")
    # QUANTIZE, 5 convolutions, 2 pools, CONCATENATION, PAD in integers; DEQUANTIZE and MEAN not.
    placement = session.placement
    assert (placement.operator_count, placement.integer_count, placement.integer_mac_share) == (12, 10, 1.0)
    assert placement.float_operators == ("DEQUANTIZE conv10/float", "MEAN logits")
    assert placement.source == "interpreter's node list: 1 delegate node(s) took over 11 of 12 operators"


def test_builtin_kernels_are_close_and_say_so(tmp_path: Path) -> None:
    quantized, pixels = table("int8"), PIXELS
    session = LITERT_BUILTIN.open_session(emitted(tmp_path), device="cpu", threads=1)
    assert (session.runtime, session.kernels) == ("litert-builtin", "builtin")
    assert "0 delegate node(s) took over 0 of 12" in session.placement.source
    expected = IntegerRunner(quantized)(pixels)
    step = quantized.tensors["conv10"].scale
    assert np.abs(session.infer(pixels) - expected).max() < 2 * step


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
def test_a_float_file_runs_nothing_in_integers(tmp_path: Path, scheme: str) -> None:
    item = emitted(tmp_path, scheme)
    session = litert.open_session(item, device="cpu", threads=1)
    assert (session.kernels, session.placement.integer_count, session.placement.integer_mac_share) == ("XNNPACK", 0, 0.0)
    # Widening the fp16 weights is no part of an inference: both schemes run the same operators.
    assert session.placement.operator_count == len(session.placement.float_operators) == 11


def test_a_file_without_weights_has_no_share(tmp_path: Path) -> None:

    def keep_the_front(model: Any) -> None:
        (subgraph,) = model.subgraphs
        subgraph.tensors[1].shape, subgraph.tensors[1].type = [1, 48], schema.TensorType.FLOAT32
        subgraph.outputs, subgraph.operators, model.signatureDefs = [1], [], None

    session = LITERT_BUILTIN.open_session(
        emitted(tmp_path, edit=lambda content: edited(content, keep_the_front)), device="cpu", threads=1
    )
    assert (session.placement.operator_count, session.placement.integer_mac_share) == (0, 0.0)


@pytest.mark.parametrize(
    ("delegated", "kernels", "count"),
    [((), "builtin", 0), ((2,), "builtin", 1), ((1,), "XNNPACK, builtin", 1), ((0, 1), "XNNPACK", 2)],
)
def test_the_convolutions_name_the_kernels(delegated: tuple[int, ...], kernels: str, count: int) -> None:
    """Two convolutions and a mean, tensors 0 to 3, of which a delegate takes some: tflite_runtime takes the mean alone."""
    details = [{"index": i, "name": f"t{i}", "shape": np.array([1, 2, 2, 4]), "dtype": np.int8} for i in range(5)]
    nodes = [
        {"op_name": "CONV_2D", "inputs": [0, 4, -1], "outputs": [1]},
        {"op_name": "CONV_2D", "inputs": [1, 4, -1], "outputs": [2]},
        {"op_name": "MEAN", "inputs": [2], "outputs": [3]},
    ]
    delegates = [{"op_name": "DELEGATE", "inputs": [min(delegated), 4], "outputs": [max(delegated) + 1]}] if delegated else []
    found, placement = kernels_and_placement(contents_of(nodes + delegates, details, [0]), "all")
    assert found == kernels
    assert f"took over {count} of 3 operators" in placement.source
    assert (placement.integer_count, placement.integer_mac_share) == (3, 1.0)


@pytest.mark.parametrize("options", [{"batch": 4}, {"batch": "dynamic"}, {"batch": "dynamic", "input_dtype": "float32"}], ids=str)
def test_batches_are_split_filled_and_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any) -> None:
    pixels = PIXELS
    one = litert.open_session(emitted(tmp_path), device="cpu", threads=1).infer(pixels)
    session = litert.open_session(emitted(tmp_path, **options), device="cpu", threads=1)
    for count in (8, 1, 3, 6):
        np.testing.assert_array_equal(session.infer(pixels[:count]), one[:count])
    monkeypatch.setattr(session, "most", max(session.least, 3))
    np.testing.assert_array_equal(session.infer(pixels), one)


def test_answers_survive_the_next_call(tmp_path: Path) -> None:
    pixels = PIXELS
    session = litert.open_session(emitted(tmp_path), device="cpu", threads=1)
    first = session.infer(pixels[:1])
    kept = first.copy()
    session.infer(pixels[1:2])
    np.testing.assert_array_equal(first, kept)
    assert (first.dtype, first.shape) == (np.float32, (1, 10))


def test_misuse_is_told_from_the_files_own_shape(tmp_path: Path) -> None:
    pixels = PIXELS
    session = litert.open_session(emitted(tmp_path), device="cpu", threads=1)
    for wrong in (pixels[:, :40], pixels.astype(np.float32), pixels[:0]):
        with pytest.raises(ValueError, match=r"the file takes uint8 \('N', 48, 48, 3\)"):
            session.infer(wrong)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="the session is closed"):
        session.infer(pixels)


def test_a_failing_runtime_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = litert.open_session(emitted(tmp_path), device="cpu", threads=1)

    def fail(self: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(litert_interpreter.Interpreter, "invoke", fail)
    with pytest.raises(Refused, match="`litert` failed on a batch of `1` images: out of memory"):
        session.infer(PIXELS[:1])


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    def opened(item: Artifact, device: str = "cpu", threads: int = 1) -> None:
        litert.open_session(item, device=device, threads=threads)

    good = emitted(tmp_path)
    with pytest.raises(Unavailable, match="`litert` has no device `tpu`") as caught:
        opened(good, device="tpu")
    assert caught.value.hint == "it has: cpu"
    with pytest.raises(BadInput, match="`0` threads"):
        opened(good, threads=0)
    content = good.path.read_bytes()
    for bad in (b"PK\x03\x04 an archive", content[:2000], b""):
        with pytest.raises(Refused, match=r"`litert` cannot open `.*net.int8.tflite`: ") as refused:
            opened(artifact(tmp_path, bad))
        assert "\n" not in refused.value.message

    def newer(model: Any) -> None:
        model.operatorCodes[1].version = 99

    with pytest.raises(Refused, match=r"CONV_2D.*99"):
        opened(artifact(tmp_path, edited(content, newer)))

    def signed_input(model: Any) -> None:
        model.subgraphs[0].inputs, model.signatureDefs = [1], None
        model.subgraphs[0].tensors[1].quantization.scale = [0.5]
        model.subgraphs[0].operators = model.subgraphs[0].operators[1:]

    with pytest.raises(Refused, match=r"no classifier of .*in: int8\[1, 48, 48, 3\]; out: float32\[1, 10\]"):
        opened(artifact(tmp_path, edited(content, signed_input)))
    good.path.unlink()
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        opened(good)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "taken"),
    [
        (np.uint8, 1, 0, True),
        (np.float32, 0, 0, True),
        (np.int8, 1, -128, True),
        (np.int8, 1, 0, False),  # the same values, of which half do not fit
        (np.int8, 1 / 128, 0, False),  # normalized, as other tools' files take them
        (np.int16, 1, 0, False),
    ],
)
def test_inputs_that_pixels_can_be_given_to(dtype: Any, scale: float, zero_point: int, taken: bool) -> None:
    assert takes_pixels(dtype, scale, zero_point) is taken


@pytest.mark.parametrize(
    ("runtime", "module", "hint"),
    [
        (TFLITE_RUNTIME, "tflite_runtime.interpreter", "environment of its own"),
        (TENSORFLOW_LITE, "tensorflow.lite.python.interpreter", "squeeze-export[peers]"),
    ],
)
def test_the_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Any, module: str, hint: str) -> None:
    """The same interpreter under another name: LiteRT's stands in for it."""
    item = emitted(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    for attempt in (runtime.devices, lambda: runtime.open_session(item, device="cpu", threads=1)):
        with pytest.raises(Unavailable, match=f"`{module}` is not installed") as caught:
            attempt()
        assert hint in caught.value.hint
    parts = module.split(".")
    for depth in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), types.ModuleType(parts[depth - 1]))
    monkeypatch.setitem(sys.modules, module, litert_interpreter)
    assert runtime.devices() == ("cpu",)
    session = runtime.open_session(item, device="cpu", threads=1)
    assert session.runtime == runtime.NAME
    assert session.infer(PIXELS[:2]).shape == (2, 10)


@pytest.mark.parametrize("name", tflite.RUNTIMES)
def test_the_registry_finds_them(name: str) -> None:
    assert name == runtime_named(name).NAME


def test_devices() -> None:
    assert litert.devices() == LITERT_BUILTIN.devices() == ("cpu",)


def test_nothing_reaches_stderr(tmp_path: Path) -> None:
    """In a process of its own: LiteRT announces its delegate from C++, once."""
    item = emitted(tmp_path, batch="dynamic")
    code = f"""
import numpy as np
from pathlib import Path
from squeeze_export.core import Artifact, TensorSpec
from squeeze_export.runtimes.tflite import litert
spec = TensorSpec("", (), "", "")
session = litert.open_session(Artifact(Path({str(item.path)!r}), "tflite", "int8", "", 0, spec, spec), device="cpu", threads=1)
print(session.kernels, session.infer(np.zeros((3, 48, 48, 3), np.uint8)).shape)
"""
    env = {name: value for name, value in os.environ.items() if "LOG" not in name}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, env=env)
    assert (done.stdout, done.stderr) == ("XNNPACK (3, 10)\n", "")


def edited(content: bytes, change: Any) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(content)
    change(model)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_integer_logits_are_given_as_real_values(tmp_path: Path) -> None:
    """The file's output is int8; what the session gives is that, by scale and zero point."""
    quantized, pixels = table("int8-npu"), PIXELS
    session = litert.open_session(emitted(tmp_path, "int8-npu"), device="cpu", threads=1)
    logits, q = session.infer(pixels), quantized.tensors["logits"]
    steps = logits / np.float32(q.scale) + q.zero_point
    assert logits.dtype == np.float32
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert np.abs(logits - IntegerRunner(quantized)(pixels)).max() <= 1.001 * q.scale
    assert session.placement.float_operators == ()
