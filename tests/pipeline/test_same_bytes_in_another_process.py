"""The same table gives the same bytes, sidecars included, in every format: in two processes that have nothing else in common."""

import os
import subprocess
import sys

import pytest

from squeeze_export.graph.table import graph_bytes, table_bytes

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
    for scheme in ("int8", "fp32", "fp16", "w8"):
        export(networks[scheme == "int8"], target, scheme_named(scheme), out, name="net")
"""


@pytest.fixture(scope="module")
def written(network, quantized, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Path -> bytes of what each of two processes wrote."""
    source = tmp_path_factory.mktemp("source")
    (source / "net.table").write_bytes(table_bytes(quantized))
    (source / "net.graph").write_bytes(graph_bytes(network.graph))
    processes, folders = [], []
    for number, (seed, zone) in enumerate((("1", "UTC"), ("2", "Asia/Kathmandu"))):
        out = tmp_path_factory.mktemp(f"out{number}")
        elsewhere = tmp_path_factory.mktemp(f"elsewhere{number}")
        changed = {
            "PYTHONHASHSEED": seed,
            "TZ": zone,
            "HOME": str(elsewhere),
            "TMPDIR": str(elsewhere),
            "OMP_NUM_THREADS": str(number + 1),
        }
        path = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-W", "ignore", "-c", EXPORT, str(source), str(out)]
        environment = {**os.environ, **changed, "PYTHONPATH": path}
        processes.append(subprocess.Popen(command, cwd=elsewhere, env=environment, stderr=subprocess.PIPE))
        folders.append(out)
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()[-2000:]
    found = [{f.relative_to(out).as_posix(): f.read_bytes() for f in out.rglob("*") if f.is_file()} for out in folders]
    return found[0], found[1]


def test_every_file_and_sidecar_is_the_same(written: tuple[dict[str, bytes], dict[str, bytes]]) -> None:
    one, two = written
    assert len([name for name in one if name.endswith(".json") and "/" not in name]) == 16
    assert sorted(one) == sorted(two)
    assert [name for name in one if one[name] != two[name]] == []
