"""Rockchip's toolkit, which a benchmark drives: what it is handed and what it tells; where it is installed, the toolkit itself."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import rknn
from benchmarks.rknn import child
from benchmarks.rknn.onnx_file import onnx_for_rknn
from benchmarks.rknn.placement import BUILD_LIMIT_S, placement_of
from squeeze_export import demo
from squeeze_export.core import EmitOptions
from squeeze_export.errors import Refused
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.pipeline import calibrate, export, open_network
from squeeze_export.workers.environments import is_installed, start

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


def test_rknns_layers_become_a_placement():
    conv = ["Conv", "conv1", "INT8", "NPU", ["(1,3,96,96),(64,3,3,3),(64)", "(1,64,47,47)"]]
    found = placement_of({"operators": [conv]})
    assert found.integer_mac_share == 1
    small = ["Conv", "conv2", "FLOAT16", "NPU", ["(1,64,47,47),(4,64,1,1),(4)", "(1,4,47,47)"]]
    first, second = 64 * 47 * 47 * 3 * 3 * 3, 4 * 47 * 47 * 64
    assert placement_of({"operators": [conv, small]}).integer_mac_share == first / (first + second)
    half, elsewhere = [*conv[:2], "FLOAT16", *conv[3:]], ["Reshape", "flat", "INT8", "CPU", ["(1,2)", "(2)"]]
    found = placement_of({"operators": [conv, half, elsewhere]})
    assert found.integer_mac_share == 0.5
    assert found.fallbacks == ("Conv conv1 in floating point", "Reshape flat on cpu")


@pytest.mark.parametrize(
    "answer", [{}, {"operators": []}, {"operators": 3}, {"operators": [[1]]}, {"operators": [["Conv", 1, 2, 3, 4]]}]
)
def test_what_a_worker_tells_is_not_believed(answer):
    with pytest.raises(Refused, match="cannot be read"):
        placement_of(answer)


LOG = """D RKNN: [1] Network Layer Information Table
D RKNN: [1] ID   OpType  DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) RW(KB) FullName
D RKNN: [1] 0    InputOperator INT8 CPU \\ (1,3,96,96) 0/0/0 0 InputOperator:input
D RKNN: [1] 1    Conv INT8 NPU (1,3,96,96),(64,3,3,3),(64) (1,64,47,47) 1/2/3 29 Conv:conv1
D RKNN: [1] 2    Conv FLOAT16 NPU (1,64,47,47),(4,64,1,1),(4) (1,4,47,47) 1/2/3 0% 9 Conv:conv2
D RKNN: [1] 3    OutputOperator INT8 CPU (1,4,47,47) \\ 0/0/0 0 OutputOperator:logits
D RKNN: [1] -------------------
D RKNN: [1] 1    Conv another table
"""


def test_the_table_of_layers_is_read():
    first, second = child.operators_of("earlier\n" + LOG)
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
            child.operators_of("\n".join(changed))


def test_rknn_itself(tables, pixels, tmp_path):
    """Where it is installed: its table of layers and its simulator are read; benchmarks/toolchains.py measures more."""
    if not is_installed(rknn):
        pytest.skip("python -m benchmarks.rknn --accept-licence")
    with start(rknn) as worker:
        (worker.folder / "network.onnx").write_bytes(onnx_for_rknn(exported(tables["int8-npu"], tmp_path).path))
        answer, _ = worker.ask("build", {"chip": "rk3588"}, limit_s=BUILD_LIMIT_S)
        placement = placement_of(answer)
        assert (placement.integer_mac_share, placement.fallbacks) == (1, ())
        _, arrays = worker.ask("simulate", {}, {"pixels": pixels}, limit_s=60)
    exact = IntegerRunner(tables["int8-npu"])(pixels)
    assert (arrays["logits"].argmax(1) == exact.argmax(1)).mean() >= BOUND
