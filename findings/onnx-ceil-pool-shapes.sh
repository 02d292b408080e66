#!/usr/bin/env bash
# onnx 1.23.2 beside ONNX Runtime 1.31.1: the shape of a max-pool in ceil mode whose last window would start in the padding.
#
# Expected: the shape that onnx infers is the shape that the runtime computes, at every opset.
# Seen: up to opset 17 onnx infers one row and one column too many (5 px, kernel 2, stride 3, padding 1: 3, where ONNX Runtime and
# torch give 2); from opset 22 on, 2. ONNX Runtime warns that the shapes differ, and computes on. A tool that takes the inferred
# shapes for true (to write another format, to fold a whole-map pool) is off by one.
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
from onnx import TensorProto, helper

onnxruntime.set_default_logger_severity(4)
found = {}
for opset in (11, 13, 17, 22):
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1)
    sides = (("x", [1, 1, 5, 5]), ("y", [1, 1, None, None]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sides]
    graph = helper.make_graph([pool], "pool", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    shape = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (computed,) = session.run(None, {"x": np.arange(25, dtype=np.float32).reshape(1, 1, 5, 5)})
    found[opset] = ([dim.dim_value for dim in shape.dim][2:], list(computed.shape[2:]))
    print(f"opset {opset}: inferred {found[opset][0]}, computed {found[opset][1]}")
expected = {11: ([3, 3], [2, 2]), 13: ([3, 3], [2, 2]), 17: ([3, 3], [2, 2]), 22: ([2, 2], [2, 2])}
sys.exit(0 if found == expected else 1)
PYTHON
