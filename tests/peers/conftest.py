"""What the peers quantize in the tests, and what each made of it: every product is made once."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from squeeze_export.core import Artifact, Audit, EmitOptions, Session, TensorSpec
from squeeze_export.files import Content, content_sha256, content_size, write_draft
from squeeze_export.formats import audited, format_named
from squeeze_export.graph.quantized import FP32
from squeeze_export.peers import Source, peer_of
from squeeze_export.registry import PEERS
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named
from tests.contract.conftest import Net, net

NEEDED: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime"),
    "tflite": ("tensorflow",),
    "openvino": ("nncf", "openvino", "torch"),
    "coreml": ("coremltools", "torch"),
}


@dataclass(frozen=True)
class Product:
    """What a peer made.

    Attributes:
        net: what it was given.
    """

    net: Net
    target: str
    content: Content
    path: Path

    @property
    def module(self) -> Any:
        return target_named(self.target)

    @property
    def specs(self) -> tuple[TensorSpec, TensorSpec]:
        return format_named(self.target).describe(self.path)

    @property
    def audit(self) -> Audit:
        return audited(self.target, self.path)

    def logits(self, pixels: Any) -> Any:
        """(N, classes): what the target's default runtime makes of the file."""
        with self._opened() as session:
            return session.infer(pixels)

    @property
    def share_in_integers(self) -> float:
        """Of the multiply-accumulates, by the default runtime's own records."""
        with self._opened() as session:
            return session.placement.integer_mac_share

    @contextmanager
    def _opened(self) -> Iterator[Session]:
        runtime = runtime_named(self.module.RUNTIMES[0])
        scheme, provenance = "int8", {}
        artifact = Artifact(
            self.path, self.target, scheme, content_sha256(self.content), content_size(self.content), *self.specs, provenance
        )
        session = runtime.open_session(artifact, device="cpu", threads=1)
        try:
            yield session
        finally:
            session.close()


@cache
def missing(target: str) -> str:
    """Why this machine cannot run a target's peer, or nothing. `SQUEEZE_EXPORT_REQUIRE=nncf` makes a missing one a failure."""
    lacking = [name for name in NEEDED[target] if importlib.util.find_spec(name) is None]
    if not lacking:
        return ""
    reason = f"the peer of {target}: {', '.join(lacking)} is not installed (squeeze-export[peers])"
    required = {name.strip() for name in os.environ.get("SQUEEZE_EXPORT_REQUIRE", "").split(",")}
    if PEERS[target].rpartition(".")[2] in required:
        pytest.fail(reason)
    return reason


def peer_module(target: str) -> Any:
    """A target's peer; the test is skipped, by name, where its packages are missing."""
    reason = missing(target)
    if reason:
        pytest.skip(reason)
    return peer_of(target)


def source(variant: str, target: str, folder: Path) -> Source:
    """A tiny network with its fp32 file of a target in the folder. The images are those that the tests ask about as well: the
    peers' accuracy on others is no matter of tests. The labels are what the float network answers."""
    module = target_named(target)
    network = net(variant)
    path = folder / f"fp32{module.SUFFIX}"
    if not path.exists():
        write_draft(path, module.emit(network.graph, FP32, EmitOptions(), {}))
    return Source(network.graph, path, network.pixels, network.pixels, network.reference.argmax(axis=1))


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Product]:
    """`product(target, recipe, variant)`."""

    @cache
    def make(target: str, recipe: str, variant: str) -> Product:
        peer = peer_module(target)
        folder = tmp_path_factory.mktemp("peer")
        content = peer.quantize(source(variant, target, folder), recipe)
        path = folder / f"vendor{target_named(target).SUFFIX}"
        write_draft(path, content)
        return Product(net(variant), target, content, path)

    return make


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """`fake_package(name, code)`: what a peer's process finds under a package's name, instead of the installed one."""
    folder = tmp_path / "fakes"
    folder.mkdir()

    def write(name: str, code: str) -> Path:
        (folder / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(folder)
        return folder

    return write
