#!/usr/bin/env bash
# OpenVINO 2026.4.1 on what onnxruntime.quantization 1.31.1 writes in its QOperator format.
#
# Expected: the ONNX front end reads the quantized operators of the most used ONNX quantizer, as it reads QLinearConv.
# Seen: a global average pool in the network becomes com.microsoft.QLinearGlobalAveragePool, and the conversion fails; the same
# network in the QDQ format converts. A SqueezeNet always ends in this pool.
#
# Exit code 0 while this is so; 1 once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" --quiet --disable-pip-version-check install \
  onnx==1.23.2 onnxruntime==1.31.1 openvino==2026.4.1 numpy==2.4.6 sympy
cd "$work"
"$work/env/bin/python" - 2>/dev/null <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

onnxruntime.set_default_logger_severity(4)
generator = np.random.default_rng(0)


class Batches(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = 4

    def get_next(self):
        self.left -= 1
        return {"x": generator.standard_normal((1, 3, 8, 8)).astype(np.float32)} if self.left >= 0 else None


weights = [numpy_helper.from_array(generator.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")]
nodes = [
    helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
    helper.make_node("Relu", ["c"], ["r"]),
    helper.make_node("GlobalAveragePool", ["r"], ["y"]),
]
sides = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 8, 8]), ("y", [1, 4, 1, 1]))]
graph = helper.make_graph(nodes, "small", sides[:1], sides[1:], weights)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "float.onnx")
found = {}
for form in (QuantFormat.QDQ, QuantFormat.QOperator):
    quantize_static("float.onnx", f"{form}.onnx", Batches(), quant_format=form)
    try:
        openvino.convert_model(f"{form}.onnx")
        found[str(form)] = "converted"
    except Exception as error:
        lines = [line for line in str(error).splitlines() if "No conversion rule" in line]
        found[str(form)] = lines[0].strip("- ") if lines else str(error).splitlines()[0]
    print(f"{form}: {found[str(form)]}")
sys.exit(0 if found["QDQ"] == "converted" and "QLinearGlobalAveragePool" in found["QOperator"] else 1)
PYTHON
