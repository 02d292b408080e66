"""Qualcomm's compiler in a process of its own: `python -m squeeze_export.compilers._qnn_child FOLDER`.

The SoC that it compiles for is the whole process's: two in one process break each other. The folder holds `source.onnx` and
`options.json`; what is left there is the graph as JSON, `product.onnx`, and `result.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

SEED, IMAGES = 0, 2
"""Of the noise on which the product is compared with the session that it came from."""
_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


def compile_apart(folder: Path) -> dict[str, Any]:
    """Compiles, loads the product again without a word about the SoC, and compares.

    Returns:
        `difference`: the largest one of the two sessions' logits; `failure`: ONNX Runtime's words where it refused, else empty.
    """
    import onnxruntime
    import onnxruntime_qnn

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

    def logits(opened: Any) -> Any:
        source = opened.get_inputs()[0]
        draw = np.random.default_rng(SEED)
        noise = [draw.integers(0, 256, source.shape, np.uint8).astype(_DTYPES[source.type]) for _ in range(IMAGES)]
        return np.stack([opened.run(None, {source.name: batch})[0] for batch in noise])

    options = json.loads((folder / "options.json").read_text())
    context = {"ep.context_enable": "1", "ep.context_file_path": str(folder / "product.onnx"), "ep.context_embed_mode": "1"}
    failures = _failures()
    try:
        compiler = session("source.onnx", {**options, "dump_json_qnn_graph": "1", "json_qnn_graph_dir": str(folder)}, context)
        expected = logits(compiler)
        del compiler
        found = logits(session("product.onnx", {}, {}))
    except failures as err:
        return {"failure": " ".join(str(err).split()) or type(err).__name__, "difference": None}
    return {"failure": "", "difference": float(np.abs(found - expected).max())}


def _failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; these have no public names."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return RuntimeError, *(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


if __name__ == "__main__":
    result = compile_apart(Path(sys.argv[1]))
    (Path(sys.argv[1]) / "result.json").write_text(json.dumps(result))
