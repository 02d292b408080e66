"""A TFLite file with a float operator planted between its integers."""

from __future__ import annotations

from typing import Any

from squeeze_export.core import require


def planted(content: bytes, behind: str, kind: str = "LOGISTIC") -> bytes:
    """`behind`'s result goes through DEQUANTIZE, a float operator and QUANTIZE before anybody reads it.

    Args:
        content: an int8 file.
        behind: name of a tensor.
        kind: of the operator, one that needs no options.
    """
    schema: Any = require("ai_edge_litert.schema_py_generated", "tflite")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph = model.subgraphs[0]
    index = next(i for i, tensor in enumerate(graph.tensors) if tensor.name.decode() == behind)

    def tensor(name: str, like: Any, dtype: int, quantization: Any) -> int:
        made = schema.TensorT()
        made.name, made.type, made.shape, made.buffer, made.quantization = name.encode(), dtype, like.shape, 0, quantization
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(name: str, source: int, result: int) -> Any:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 2 if name == "DEQUANTIZE" else 1
        model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(model.operatorCodes) - 1, [source], [result]
        return made

    like = graph.tensors[index]
    float32 = schema.TensorType.FLOAT32
    real, done = tensor("planted/real", like, float32, None), tensor("planted", like, float32, None)
    back = tensor("planted/int8", like, like.type, like.quantization)
    place = 1 + next(i for i, op in enumerate(graph.operators) if index in list(op.outputs))
    for later in graph.operators[place:]:
        later.inputs = [back if i == index else i for i in later.inputs]
    graph.operators[place:place] = [
        operator("DEQUANTIZE", index, real),
        operator(kind, real, done),
        operator("QUANTIZE", done, back),
    ]
    builder = require("flatbuffers", "tflite").Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
