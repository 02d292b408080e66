"""Qualcomm's compiler, for a process of its own: the SoC is a setting of the whole process, and two of them break each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.compilers.qnn.rounding import ROUNDS_DOWN
from squeeze_export.formats.qnn import binary_facts

SEED, IMAGES, SQUARES = 0, 8, 8
"""The images on which the product is compared with the exact integers: each is 8 by 8 squares of noise."""
SAME = 2
"""How many of them are compared with the session that made the product."""
_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


def compile_apart(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compiles, loads the product again without naming the SoC, and compares.

    Args:
        values: `folder`: holds `source.onnx`, the file to compile, and `exact.onnx`, the reference; `product.onnx` and QNN's graph
            as JSON are written there. `options`: of the provider.
        arrays: none.

    Returns:
        `difference`: the largest difference between the logits of the two sessions; `error`: the mean square error of the product's
        logits against the exact ones, if the HTP rounds down; `failure`: ONNX Runtime's message if it refused, else empty.
    """
    import onnxruntime
    import onnxruntime_qnn

    folder = Path(values["folder"])
    onnxruntime.disable_telemetry_events()
    onnxruntime.register_execution_provider_library("QNNExecutionProvider", onnxruntime_qnn.get_library_path())
    entries = [entry for entry in onnxruntime.get_ep_devices() if entry.ep_name == "QNNExecutionProvider"]

    def session(file: str, options: dict[str, str], settings: dict[str, str]) -> Any:
        chosen = onnxruntime.SessionOptions()
        chosen.log_severity_level = 4
        chosen.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        for name, value in settings.items():
            chosen.add_session_config_entry(name, value)
        backend = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()}
        chosen.add_provider_for_devices(entries[:1], {**backend, **options})
        return onnxruntime.InferenceSession(str(folder / file), chosen, enable_fallback=0)

    def logits(opened: Any, images: int = IMAGES) -> Any:
        source = opened.get_inputs()[0]
        draw = np.random.default_rng(SEED)
        noise = [_squares(draw, source.shape).astype(_DTYPES[source.type]) for _ in range(images)]
        return np.stack([opened.run(None, {source.name: batch})[0] for batch in noise])

    def exact() -> Any:
        """The reference, computed in float32 operator by operator: a CPU's 8-bit kernels may saturate."""
        chosen = onnxruntime.SessionOptions()
        chosen.log_severity_level = 4
        chosen.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return logits(onnxruntime.InferenceSession(str(folder / "exact.onnx"), chosen, providers=["CPUExecutionProvider"]))

    context = {"ep.context_enable": "1", "ep.context_file_path": str(folder / "product.onnx"), "ep.context_embed_mode": "1"}
    failures = _failures()
    try:
        compiler = session(
            "source.onnx", {**values["options"], "dump_json_qnn_graph": "1", "json_qnn_graph_dir": str(folder)}, context
        )
        expected = logits(compiler, SAME)
        del compiler
        product = session("product.onnx", {}, {})
        difference = float(np.abs(logits(product, SAME) - expected).max())
        down = binary_facts((folder / "product.onnx").read_bytes()).get("htp_arch") in ROUNDS_DOWN
        error = float(np.square(logits(product) - exact()).mean()) if down else None
    except failures as err:
        return {"failure": " ".join(str(err).split()) or type(err).__name__, "difference": None, "error": None}, {}
    return {"failure": "", "difference": difference, "error": error}, {}


def _squares(draw: np.random.Generator, shape: Any) -> Any:
    """Noise images, (batch, height, width, 3) uint8."""
    batch, height, width, channels = shape
    coarse = draw.integers(0, 256, (batch, SQUARES, SQUARES, channels), np.uint8)
    return coarse[:, np.arange(height) * SQUARES // height][:, :, np.arange(width) * SQUARES // width]


def _failures() -> tuple[type[Exception], ...]:
    """The exceptions that ONNX Runtime raises; they have no public names."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return RuntimeError, *(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
