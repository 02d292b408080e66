"""ExecuTorch, PyTorch's runtime for phones and microcontrollers. It needs its own versions of numpy and torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

NAME = "executorch"
VERSION = "1.5.1"
PACKAGE = "executorch"
LICENCE = "BSD 3-clause"
NOTICE = ""
WHEELS: Mapping[str, str] = {
    "3.11": "274c28c2fe2b76acb03f9fa381537425c40e0098dcf886baf6d97a1a55ffe300",
    "3.12": "04897dffff8d96e8af32f554c758d0a7d4f50af5c3530c90dc8d5319bb44c878",
    "3.13": "083f998ebddc0bc98ad299e3fded57f4fcadb67792ef4c6ef920856cfd7bd3a5",
}
SYSTEM = "linux-x86_64"
WHOLE: tuple[str, ...] = ("torch==2.13.0",)
PINS: tuple[str, ...] = (
    # What lowering to XNNPACK and running the result imports. The package requires three times as many, for its other back ends.
    "flatbuffers==25.12.19",
    "filelock==4.2.11",
    "fsspec==2026.9.0",
    "Jinja2==3.1.6",
    "MarkupSafe==3.0.4",
    "mpmath==1.3.0",
    "networkx==3.6.1",
    "numpy==2.4.6",
    "packaging==26.3",
    "ruamel.yaml==0.19.1",
    "setuptools==80.10.2",
    "sympy==1.14.0",
    "tabulate==0.10.0",
    "torchao==0.18.0",
    "tqdm==4.70.1",
    "typing_extensions==4.16.0",
)
WORKER = Path(__file__).with_name("script.py")
