"""RKNN-Toolkit2's side: builds a `.rknn` from an ONNX file in integers, and runs the toolkit's simulator on what it built.

Runs in the toolkit's environment, under squeeze_export's `workers/serve.py`; imports nothing of this project.
"""

# mypy: disable-error-code="import-not-found, import-untyped"
# What is imported in the functions is in the other environment.

import re
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

SOURCE, PRODUCT = "network.onnx", "network.rknn"
PRINTED = "output.txt"  # where `workers/process.py` sends what the compiler prints: its table of layers is told nowhere else
MAX_LOG_CHARACTERS = 16_000_000
STATE: dict[str, Any] = {}
Values = dict[str, Any]
Arrays = dict[str, Any]
Answer = tuple[Values, Arrays]
TABLE = "Network Layer Information Table"
ROW = re.compile(r"D RKNN: \[[^\]]*\]\s+(?P<number>\d+)\s+(?P<rest>\S.*)")
RULE = re.compile(r"D RKNN: \[[^\]]*\]\s+-+$")
LAYER = re.compile(
    r"(?P<kind>\S+)\s+(?P<type>[A-Z]+\d*)\s+(?P<where>[A-Z]+)\s+(?P<shapes>.*?)\s+\d+/\d+/\d+\s+(?:\d+%\s+)?\d+\s+\S*:(?P<name>\S+)"
)


def check(values: Values, arrays: Arrays) -> Answer:
    """Imports what the work needs."""
    from rknn.api import RKNN

    RKNN(verbose=False).release()
    return {"version": version("rknn-toolkit2")}, {}


def build(values: Values, arrays: Arrays) -> Answer:
    """Builds `SOURCE` for the chip `chip` as it is, and leaves `PRODUCT`; the layers are read from the compiler's own table."""
    from rknn.api import RKNN

    rknn = RKNN(verbose=True)
    # Level 3, the default, turns convolutions of tables like ours to float16.
    must(rknn.config(target_platform=values["chip"], optimization_level=2), "config")
    must(rknn.load_onnx(model=SOURCE), "load_onnx")
    must(rknn.build(do_quantization=False), "build")
    must(rknn.export_rknn(PRODUCT), "export_rknn")
    STATE["rknn"] = rknn
    return {"operators": operators_of(Path(PRINTED).read_text(encoding="utf-8", errors="replace")[-MAX_LOG_CHARACTERS:])}, {}


def operators_of(log: str) -> list[list[Any]]:
    """`[kind, name, data type, where, shapes]` of every layer in the last table of the log; input and output are no operators.

    A line that cannot be read is an error, and so is one that is missing: what is left out would not be looked at.
    """
    lines = [line.strip() for line in log.rpartition(TABLE)[2].splitlines()]
    first = next((index for index, line in enumerate(lines) if ROW.match(line)), 0)
    rows = [found for line in takewhile(lambda line: not RULE.match(line), lines[first:]) if (found := ROW.match(line))]
    layers = [LAYER.match(row["rest"]) for row in rows]
    numbers = [int(row["number"]) for row in rows]
    if not rows or None in layers or numbers != list(range(len(rows))):
        raise ValueError("the compiler's table of layers is not as it is known")
    listed = [layer.groupdict() for layer in layers if layer is not None]
    if (listed[0]["kind"], listed[-1]["kind"]) != ("InputOperator", "OutputOperator"):
        raise ValueError("the compiler's table of layers is not whole")
    return [[row["kind"], row["name"], row["type"], row["where"], row["shapes"].split()] for row in listed[1:-1]]


def simulate(values: Values, arrays: Arrays) -> Answer:
    """`pixels`: (N, H, W, 3) uint8, run one by one by the simulator of what `build` built."""
    rknn = STATE["rknn"]
    if not STATE.get("simulator"):
        must(rknn.init_runtime(), "init_runtime")
        STATE["simulator"] = True
    results = []
    for image in arrays["pixels"]:
        pixels = np.ascontiguousarray(image[None].transpose(0, 3, 1, 2).astype(np.float32))
        (result,) = rknn.inference(inputs=[pixels], data_format=["nchw"])
        results.append(np.asarray(result, np.float32).reshape(1, -1))
    return {}, {"logits": np.concatenate(results)}


def must(code: int, what: str) -> None:
    """The toolkit returns its failures."""
    if code != 0:
        raise RuntimeError(f"{what} gave {code}")
