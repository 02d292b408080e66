#!/usr/bin/env bash
# onnx 1.23.2: its reference evaluator on a quantized (QDQ) model of opset 13, the opset that most exporters write.
#
# Expected: the standard's own evaluator runs every operator of every opset that the checker accepts.
# Seen: the checker accepts the model, but the evaluator has DequantizeLinear from opset 19 on only, and refuses to load it.
# onnx.version_converter brings the model to opset 21 in one call; then it runs.
#
# Exit code 0 while this is so; 1 once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" --quiet --disable-pip-version-check install onnx==1.23.2 numpy==2.4.6
"$work/env/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

weights = [numpy_helper.from_array(np.float32(0.5), "scale"), numpy_helper.from_array(np.uint8(128), "zero")]
node = helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["y"])
sides = [helper.make_tensor_value_info("x", TensorProto.UINT8, [4]), helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])]
graph = helper.make_graph([node], "dequantize", sides[:1], sides[1:], weights)
found = {}
for opset in (13, 17, 19, 21):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    try:
        (values,) = ReferenceEvaluator(model).run(None, {"x": np.array([126, 127, 128, 130], np.uint8)})
        found[opset] = values.tolist()
    except RuntimeError as error:
        found[opset] = str(error).split(",")[0]
    print(f"opset {opset}: {found[opset]}")
old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
converted = onnx.version_converter.convert_version(old, 21)
(values,) = ReferenceEvaluator(converted).run(None, {"x": np.array([126, 127, 128, 130], np.uint8)})
print(f"opset 13 brought to 21: {values.tolist()}")
right = [-1.0, -0.5, 0.0, 1.0]
refused = all(isinstance(found[opset], str) and "DequantizeLinear" in found[opset] for opset in (13, 17))
sys.exit(0 if refused and found[19] == found[21] == values.tolist() == right else 1)
PYTHON
