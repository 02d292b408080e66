"""What ExecuTorch is handed and what it tells; where it is installed, ExecuTorch itself."""

from __future__ import annotations

import numpy as np
import pytest

from squeeze_export import demo
from squeeze_export.compilers import compiler_named
from squeeze_export.compilers.executorch.network import read_network
from squeeze_export.core import EmitOptions
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.pipeline import calibrate, export, open_network
from squeeze_export.pipeline.export import keep_compiled
from squeeze_export.runtimes import runtime_named
from squeeze_export.workers import executorch
from squeeze_export.workers.environments import is_installed
from squeeze_export.workers.executorch.placement import placement_of

pytest.importorskip("onnx")

IMAGES = 48


@pytest.fixture(scope="module")
def tables():
    """Scheme -> the demo network in it."""
    return {"int8": calibrate(open_network(None), scheme=scheme_named("int8")).quantized}


@pytest.fixture(scope="module")
def pixels():
    preprocess = open_network(None).graph.preprocess
    files = sorted(path for path in demo.evaluation_folder().rglob("*") if path.suffix in (".jpg", ".png"))
    return np.stack([load_pixels(path, preprocess) for path in files[:: len(files) // IMAGES][:IMAGES]])


def exported(table, folder, **options):
    return export(table, "onnx", table.scheme, folder, name="net", options=EmitOptions(**options))[0]


def test_what_executorch_is_handed_is_the_table(tables, tmp_path):
    table = tables["int8"]
    values, arrays = read_network(exported(table, tmp_path).path)
    assert values["shape"] == [1, 96, 96, 3]
    convs = {node["name"]: node for node in values["nodes"] if node["operator"] == "Conv"}
    made_from = {node["output"]: node["inputs"] for node in values["nodes"] if node["operator"] == "DequantizeLinear"}
    for conv in table.convs:
        weight, scale, _ = (arrays[values["constants"][name]] for name in made_from[convs[conv.name]["inputs"][1]])
        np.testing.assert_array_equal(weight, conv.weight)
        np.testing.assert_array_equal(scale, conv.weight_scale)
        np.testing.assert_array_equal(arrays[values["constants"][made_from[convs[conv.name]["inputs"][2]][0]]], conv.bias)


@pytest.mark.parametrize("options", [{"batch": 2}, {"input_dtype": "float32"}])
def test_what_executorch_cannot_be_handed_is_refused(tables, tmp_path, options):
    with pytest.raises(Refused, match="cannot be lowered"):
        read_network(exported(tables["int8"], tmp_path, **options).path)


def test_executorchs_operators_become_a_placement():
    conv = ["Conv2d", "xnnpack", True, 10]
    found = placement_of({"operators": [["permute_copy", "portable", False, 0], conv, conv]})
    assert (found.operator_count, found.integer_count, found.integer_mac_share, found.fallbacks) == (3, 2, 1.0, ())
    pool = ["MaxPooling2d", "xnnpack", False, 0]
    assert placement_of({"operators": [conv, pool, conv]}).fallbacks == ("MaxPooling2d xnnpack in floating point",)


@pytest.mark.parametrize(
    "answer", [{}, {"operators": []}, {"operators": 3}, {"operators": [[1]]}, {"operators": [["Conv", 1, 2, 3, 4]]}]
)
def test_what_a_worker_tells_is_not_believed(answer):
    with pytest.raises(Refused, match="cannot be read"):
        placement_of(answer)


def test_a_compiler_without_its_toolchain(tmp_path, monkeypatch):
    monkeypatch.setenv("SQUEEZE_EXPORT_DATA", str(tmp_path))
    compiler = compiler_named("executorch")
    with pytest.raises(Unavailable, match="not installed") as caught:
        compiler.check(compiler.CHIPS[0], {})
    assert caught.value.hint == "squeeze-export toolchain install executorch"
    with pytest.raises(BadInput, match="`z80`"):
        compiler.check("z80", {})
    with pytest.raises(BadInput, match="no setting `speed`"):
        compiler.check(compiler.CHIPS[0], {"speed": "high"})
    with pytest.raises(Unavailable, match="not installed"):
        runtime_named(compiler.RUNTIMES[0]).devices()


def test_executorch_itself(tables, pixels, tmp_path):
    """Where it is installed: every convolution in integers, and the integer run's logits."""
    if not is_installed(executorch):
        pytest.skip("squeeze-export toolchain install executorch")
    compiler, runtime = compiler_named("executorch"), runtime_named("executorch")
    artifact = exported(tables["int8"], tmp_path)
    compiled = compiler.compile_for(artifact, "xnnpack", {}, tmp_path)
    assert (compiled.placement.integer_mac_share, compiled.placement.fallbacks) == (1, ())
    product = keep_compiled(compiled.content, tmp_path / "net.pte", artifact, "executorch", {"chip": "xnnpack"})
    with pytest.raises(Unavailable, match="`npu9`"):
        runtime.open_session(product, device="npu9", threads=1)
    session = runtime.open_session(product, device="cpu", threads=1)
    try:
        exact = IntegerRunner(tables["int8"])(pixels)
        np.testing.assert_allclose(session.infer(pixels), exact, rtol=0, atol=1e-5 * np.abs(exact).max())  # the pool is in float
        first = session.infer(pixels[:1])
        kept = first.copy()
        session.infer(pixels[1:2])
        np.testing.assert_array_equal(first, kept)
        with pytest.raises(ValueError, match="the file takes uint8"):
            session.infer(pixels[:, :90])
        assert [len(row) for row in session.clock.time([(session, pixels[:1])], warmup=1, rounds=3)] == [3]
        assert (session.evidence, session.threads) == ("measured", 1)
    finally:
        session.close()
    product.path.write_bytes(compiled.content[: len(compiled.content) // 3])
    with pytest.raises(Refused, match="executorch"):
        runtime.open_session(product, device="cpu", threads=1)
