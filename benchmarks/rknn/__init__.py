"""Rockchip's RKNN-Toolkit2: compiler and simulator for the NPUs of its chips. It needs numpy 1 and an onnx of 2025."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

NAME = "rknn"
VERSION = "2.5.0"
PACKAGE = "rknn-toolkit2"
LICENCE = "none stated: treat it as proprietary"
NOTICE = (
    "rknn-toolkit2 2.5.0 is binary code of Rockchip. Its wheel states no licence and contains no licence text, so it grants no "
    "right to use, copy or pass it on; whether you have one is between you and Rockchip. squeeze-export does not contain it: "
    "pip downloads it from the package index that it is configured for."
)
WHEELS: Mapping[str, str] = {
    "3.11": "21922dd3037503a2934fea24cbbf6eccda586158178636ae28a2ac658e710055",
    "3.12": "037765a9051df0031679b853698da11f36d28333e1d65f0c87516d06ee39eb33",
}
SYSTEM = "linux-x86_64"
WHOLE: tuple[str, ...] = ("torch==2.13.0",)  # its own pin is an older one; this one works, and the environments share pip's cache
PINS: tuple[str, ...] = (
    "fast-histogram==0.14",
    "filelock==4.2.11",
    "flatbuffers==25.12.19",
    "fsspec==2026.9.0",
    "Jinja2==3.1.6",
    "MarkupSafe==3.0.4",
    "mpmath==1.3.0",
    "networkx==3.6.1",
    "numpy==1.26.4",
    "onnx==1.18.0",
    "onnxruntime==1.26.0",
    "opencv-python-headless==4.10.0.84",
    "packaging==26.3",
    "protobuf==4.25.4",
    "psutil==7.2.2",
    "ruamel.yaml==0.19.1",
    "scipy==1.13.1",
    "setuptools==80.10.2",  # the last with pkg_resources, which the toolkit imports
    "sympy==1.14.0",
    "tqdm==4.70.1",
    "typing_extensions==4.16.0",
)
WORKER = Path(__file__).with_name("child.py")
