"""The same table gives the same bytes, sidecars included, in every format: in two processes that have nothing else in common.

The second one computes as an older CPU would: numpy and its BLAS without the vector instructions of the last 15 years.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.graph.table import graph_bytes, table_bytes
from squeeze_export.pipeline import Network

FEATURES = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
OLD = {"NPY_DISABLE_CPU_FEATURES": " ".join(FEATURES), "OPENBLAS_CORETYPE": "Nehalem"} if platform.machine() == "x86_64" else {}
SETTINGS = ({"PYTHONHASHSEED": "1", "TZ": "UTC"}, {"PYTHONHASHSEED": "2", "TZ": "Asia/Kathmandu", **OLD})
EXPORT = """
import sys
from pathlib import Path
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.graph.table import read_graph, read_table
from squeeze_export.pipeline import export
from squeeze_export.targets import target_named

source, out = Path(sys.argv[1]), Path(sys.argv[2])
networks = {True: read_table(source / "net.table"), False: read_graph(source / "net.graph")}
for target in ("onnx", "tflite", "openvino", "coreml"):
    for scheme in map(scheme_named, target_named(target).SCHEMES):
        if scheme.name == "int8" or not scheme.integer:
            export(networks[scheme.integer], target, scheme, out, name="net")
"""


@pytest.fixture(scope="module")
def written(
    network: Network, quantized: QuantizedGraph, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Path -> bytes of what each of two processes wrote."""
    source = tmp_path_factory.mktemp("source")
    (source / "net.table").write_bytes(table_bytes(quantized))
    (source / "net.graph").write_bytes(graph_bytes(network.graph))
    processes, folders = [], []
    for number, settings in enumerate(SETTINGS):
        out = tmp_path_factory.mktemp(f"out{number}")
        elsewhere = tmp_path_factory.mktemp(f"elsewhere{number}")
        command = [sys.executable, "-W", "ignore", "-c", EXPORT, str(source), str(out)]
        folder = {"HOME": str(elsewhere), "TMPDIR": str(elsewhere), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment = {**os.environ, **settings, **folder}
        processes.append(subprocess.Popen(command, cwd=elsewhere, env=environment, stderr=subprocess.PIPE))
        folders.append(out)
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()[-2000:]
    one, two = ({f.relative_to(out).as_posix(): f.read_bytes() for f in out.rglob("*") if f.is_file()} for out in folders)
    return one, two


def test_every_file_and_sidecar_is_the_same(written: tuple[dict[str, bytes], dict[str, bytes]]) -> None:
    one, two = written
    assert len([name for name in one if name.endswith(".json") and "/" not in name]) == 19
    assert sorted(one) == sorted(two)
    assert [name for name in one if one[name] != two[name]] == []
