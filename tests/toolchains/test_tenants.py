"""What the tenants are handed and what they tell; where a toolchain is installed, the toolchain itself."""

from __future__ import annotations

import numpy as np
import pytest

from squeeze_export import demo
from squeeze_export.compilers import compiler_named
from squeeze_export.compilers._executorch_network import read_network
from squeeze_export.core import EmitOptions
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.pipeline import calibrate, export, open_network
from squeeze_export.pipeline.export import keep_compiled
from squeeze_export.runtimes import runtime_named
from squeeze_export.toolchains import _executorch_records, _rknn_records, toolchain_named
from squeeze_export.toolchains._environment import is_installed, start
from squeeze_export.toolchains._rknn_onnx import onnx_for_rknn

pytest.importorskip("onnx")

BOUND = 0.9
"""Share of images with the same top-1 class as the integer run: that of the contract suite."""
IMAGES = 48


@pytest.fixture(scope="module")
def tables():
    """Scheme -> the demo network in it."""
    network = open_network(None)
    return {name: calibrate(network, scheme=scheme_named(name)).quantized for name in ("int8", "int8-npu")}


@pytest.fixture(scope="module")
def pixels():
    preprocess = open_network(None).graph.preprocess
    files = sorted(path for path in demo.evaluation_folder().rglob("*") if path.suffix in (".jpg", ".png"))
    return np.stack([load_pixels(path, preprocess) for path in files[:: len(files) // IMAGES][:IMAGES]])


def exported(table, folder, **options):
    return export(table, "onnx", table.scheme, folder, name="net", options=EmitOptions(**options))[0]


def test_what_rknn_is_handed_gives_the_same_answers(tables, pixels, tmp_path):
    """The rewritten file on ONNX Runtime: the same integers, to the last bit."""
    onnxruntime = pytest.importorskip("onnxruntime")
    artifact = exported(tables["int8-npu"], tmp_path)
    session = onnxruntime.InferenceSession(onnx_for_rknn(artifact.path), providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    assert (source.type, source.shape) == ("tensor(float)", [1, 3, 96, 96])
    images = pixels[:4].transpose(0, 3, 1, 2).astype(np.float32)
    found = np.concatenate([session.run(None, {source.name: image[None]})[0] for image in images])
    assert found.shape == (4, 24, 1, 1)
    np.testing.assert_array_equal(found[:, :, 0, 0], IntegerRunner(tables["int8-npu"])(pixels[:4]))


@pytest.mark.parametrize(
    ("scheme", "options"), [("int8", {}), ("int8-npu", {"batch": 2}), ("int8-npu", {"input_dtype": "float32"})]
)
def test_what_rknn_cannot_be_handed_is_refused(tables, tmp_path, scheme, options):
    with pytest.raises(Refused, match="not written as RKNN-Toolkit2 needs it"):
        onnx_for_rknn(exported(tables[scheme], tmp_path, **options).path)


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
    found = _executorch_records.placement_of({"operators": [["permute_copy", "portable", False, 0], conv, conv]})
    assert (found.operator_count, found.integer_count, found.integer_mac_share, found.fallbacks) == (3, 2, 1.0, ())
    pool = ["MaxPooling2d", "xnnpack", False, 0]
    assert _executorch_records.placement_of({"operators": [conv, pool, conv]}).fallbacks == (
        "MaxPooling2d xnnpack in floating point",
    )


def test_rknns_layers_become_a_placement():
    conv = ["Conv", "conv1", "INT8", "NPU", ["(1,3,96,96),(64,3,3,3),(64)", "(1,64,47,47)"]]
    found = _rknn_records.placement_of({"operators": [conv]})
    assert found.integer_mac_share == 1
    assert _rknn_records._mac_count(conv[4]) == 64 * 47 * 47 * 3 * 3 * 3
    half, elsewhere = [*conv[:2], "FLOAT16", *conv[3:]], ["Reshape", "flat", "INT8", "CPU", ["(1,2)", "(2)"]]
    found = _rknn_records.placement_of({"operators": [conv, half, elsewhere]})
    assert found.integer_mac_share == 0.5
    assert found.fallbacks == ("Conv conv1 in floating point", "Reshape flat on cpu")


@pytest.mark.parametrize("records", [_executorch_records, _rknn_records])
@pytest.mark.parametrize(
    "answer", [{}, {"operators": []}, {"operators": 3}, {"operators": [[1]]}, {"operators": [["Conv", 1, 2, 3, 4]]}]
)
def test_what_a_worker_tells_is_not_believed(records, answer):
    with pytest.raises(Refused, match="cannot be read"):
        records.placement_of(answer)


LOG = """D RKNN: [1] Network Layer Information Table
D RKNN: [1] ID   OpType  DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) RW(KB) FullName
D RKNN: [1] 0    InputOperator INT8 CPU \\ (1,3,96,96) 0/0/0 0 InputOperator:input
D RKNN: [1] 1    Conv INT8 NPU (1,3,96,96),(64,3,3,3),(64) (1,64,47,47) 1/2/3 29 Conv:conv1
D RKNN: [1] 2    Conv FLOAT16 NPU (1,64,47,47),(4,64,1,1),(4) (1,4,47,47) 1/2/3 0% 9 Conv:conv2
D RKNN: [1] 3    OutputOperator INT8 CPU (1,4,47,47) \\ 0/0/0 0 OutputOperator:logits
D RKNN: [1] -------------------
D RKNN: [1] 1    Conv another table
"""


def rknn_worker():
    import importlib.util

    from squeeze_export import toolchains

    spec = importlib.util.spec_from_file_location("rknn_worker", f"{toolchains.__path__[0]}/_rknn_worker.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_layers_is_read():
    first, second = rknn_worker().operators_of("earlier\n" + LOG)
    assert first == ["Conv", "conv1", "INT8", "NPU", ["(1,3,96,96),(64,3,3,3),(64)", "(1,64,47,47)"]]
    assert second[:4] == ["Conv", "conv2", "FLOAT16", "NPU"]


@pytest.mark.parametrize("line", range(2, 6))
def test_a_line_that_is_missing_or_strange_is_no_table(line):
    """Negative control: a layer that is not read would count as none."""
    lines = LOG.splitlines()
    for changed in (
        lines[:line] + lines[line + 1 :],
        [*lines[:line], lines[line].replace("INT8", "").replace("FLOAT16", ""), *lines[line + 1 :]],
    ):
        with pytest.raises(ValueError, match="table of layers"):
            rknn_worker().operators_of("\n".join(changed))


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


def needs(name):
    if not is_installed(toolchain_named(name)):
        pytest.skip(f"squeeze-export toolchain install {name}")


def test_executorch_itself(tables, pixels, tmp_path):
    """Where it is installed: every convolution in integers, and the integer run's logits."""
    needs("executorch")
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
        with pytest.raises(BadInput, match="pixels of"):
            session.infer(pixels[:, :90])
        assert len(session.samples_ns(pixels[:1], warmup=1, rounds=3)) == 3
        assert (session.evidence, session.threads) == ("measured", 1)
    finally:
        session.close()
    product.path.write_bytes(compiled.content[: len(compiled.content) // 3])
    with pytest.raises(Refused, match="executorch"):
        runtime.open_session(product, device="cpu", threads=1)


def test_rknn_itself(tables, pixels, tmp_path):
    """Where it is installed: its table of layers and its simulator are read; benchmarks/toolchains.py measures more."""
    needs("rknn")
    with start(toolchain_named("rknn")) as worker:
        (worker.folder / "network.onnx").write_bytes(onnx_for_rknn(exported(tables["int8-npu"], tmp_path).path))
        answer, _ = worker.ask("build", {"chip": "rk3588"}, limit_s=_rknn_records.BUILD_LIMIT_S)
        placement = _rknn_records.placement_of(answer)
        assert (placement.integer_mac_share, placement.fallbacks) == (1, ())
        _, arrays = worker.ask("simulate", {}, {"pixels": pixels}, limit_s=60)
    exact = IntegerRunner(tables["int8-npu"])(pixels)
    assert (arrays["logits"].argmax(1) == exact.argmax(1)).mean() >= BOUND
