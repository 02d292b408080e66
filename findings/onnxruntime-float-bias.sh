#!/usr/bin/env bash
# ONNX Runtime 1.31.1: a QDQ convolution (opset 17) whose bias is a float tensor.
#
# Expected: the bias has no scale, so the convolution stays in float, or its bias is added in float.
# Seen: the convolution becomes a QLinearConv, and the bias is rounded to int32 in steps of (input scale x weight scale), without a
# look at its range. A channel with very small weights (pruned, or dead after training) has a very small scale: at 1e-8 a bias of 5
# does not fit into int32, and the channel gives 0 where it should give 100. With the graph optimizations off it gives 100. No warning.
#
# Exit code 0 while this is so; 1 once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" --quiet --disable-pip-version-check install onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$work/env/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

onnxruntime.set_default_logger_severity(3)


def convolution(weight_scale: float) -> bytes:
    """1x1, one channel, all weights 0: its output is the bias alone, 5, which is 100 in steps of 0.05."""
    tensors = {
        "x_scale": np.float32(0.02),
        "x_zero": np.uint8(128),
        "w": np.zeros((1, 3, 1, 1), np.int8),
        "w_scale": np.array([weight_scale], np.float32),
        "w_zero": np.zeros(1, np.int8),
        "bias": np.array([5], np.float32),
        "y_scale": np.float32(0.05),
        "y_zero": np.uint8(0),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["x_float"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_float"], axis=0),
        helper.make_node("Conv", ["x_float", "w_float", "bias"], ["y_float"], kernel_shape=[1, 1]),
        helper.make_node("QuantizeLinear", ["y_float", "y_scale", "y_zero"], ["y"]),
    ]
    sides = [helper.make_tensor_value_info(name, TensorProto.UINT8, [1, depth, 8, 8]) for name, depth in (("x", 3), ("y", 1))]
    weights = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "convolution", sides[:1], sides[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8)).astype(np.uint8)
levels = {"all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL}
found = {}
for scale in (1e-2, 1e-6, 1e-8):
    for name, level in levels.items():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(convolution(scale), options, providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {"x": pixels})
        assert (output == output.flat[0]).all()
        found[scale, name] = int(output.flat[0])
        print(f"weight scale {scale:g}, optimizations {name}: output {found[scale, name]}, by hand 100")
right = {key: 100 for key in found}
sys.exit(0 if found == {**right, (1e-8, "all"): 0} else 1)
PYTHON
