"""The Python in the docs is run, and OpenVINO's C++ where there is a compiler: on the files that it names."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from doc_pages import PAGES, ROOT, blocks, name_of
from PIL import Image

from squeeze_export.core import TORCHVISION
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.pipeline import read_artifact
from squeeze_export.runtimes.coreml.evaluator import open_session

SNIPPETS = [
    (name_of(page), number, text) for page in PAGES for number, text in enumerate(blocks(page.read_text("utf-8"), "python"))
]
GUIDES = ("onnx", "tflite", "openvino", "coreml", "coreai")
API_PAGE = "docs/python-api.md"  # has a test of its own


def absent(snippet: str) -> list[str]:
    """The packages that a snippet imports and that are not installed."""
    nodes = list(ast.walk(ast.parse(snippet)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    roots = dict.fromkeys(name.split(".")[0] for name in names)
    return [root for root in roots if importlib.util.find_spec(root) is None]


def run(snippet: str) -> dict[str, object]:
    """Runs a snippet in the current folder; gives its names."""
    found: dict[str, object] = {"__name__": "snippet"}
    exec(compile(snippet, "snippet", "exec"), found)  # noqa: S102
    return found


@pytest.fixture
def folder(exported, tmp_path, monkeypatch):
    """The current folder, with the files that the guides name, and a photograph."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)
    Image.fromarray(pixels).resize((613, 451), Image.Resampling.BICUBIC).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def expected(folder):
    """The label of a black image."""
    session = open_session(read_artifact(folder / "squeezenet1_1.int8.mlpackage"), device="cpu", threads=1)
    logits = session.infer(np.zeros((1, 224, 224, 3), np.uint8))[0]
    return (folder / "classes.txt").read_text().split()[int(logits.argmax())]


@pytest.mark.parametrize(
    ("page", "number", "snippet"),
    [s for s in SNIPPETS if s[0] != API_PAGE],
    ids=[f"{s[0]} {s[1]}" for s in SNIPPETS if s[0] != API_PAGE],
)
def test_a_snippet_runs(page, number, snippet, folder, expected, capsys):
    if absent(snippet):
        pytest.skip(f"not run, without {', '.join(absent(snippet))}: {page}, snippet {number}")
    if ".predict(" in snippet and sys.platform != "darwin":
        pytest.skip(f"not run, Core ML predicts on macOS alone: {page}, snippet {number}")
    run(snippet)
    printed = capsys.readouterr().out
    if Path(page).stem in GUIDES:
        assert printed == f"{expected}\n"


@pytest.mark.parametrize("page", [f"docs/targets/{guide}.md" for guide in GUIDES])
def test_a_snippet_prints_the_index_where_there_are_no_labels(page, unlabelled, folder, expected, monkeypatch, capsys):
    here = [text for found, _, text in SNIPPETS if found == page and ".predict(" not in text and not absent(text)]
    assert here
    labels = (folder / "classes.txt").read_text().split()
    monkeypatch.chdir(unlabelled)
    for snippet in here:
        run(snippet)
        assert capsys.readouterr().out == f"{labels.index(expected)}\n"


def test_every_guide_has_a_snippet_that_runs_here():
    here = {page for page, _, snippet in SNIPPETS if ".predict(" not in snippet and "model_api" not in snippet}
    assert {f"docs/targets/{guide}.md" for guide in GUIDES} <= here


def test_the_pixels_are_the_ones_that_validation_hands_over(folder):
    (snippet,) = [text for page, _, text in SNIPPETS if page == "docs/targets.md"]
    pixels = run(snippet)["pixels"]
    assert isinstance(pixels, np.ndarray)
    assert (pixels == load_pixels(folder / "photo.jpg", TORCHVISION)[None]).all()
    wrong = run(snippet.replace("BILINEAR", "NEAREST"))["pixels"]
    assert (pixels != wrong).any()


def test_a_broken_snippet_is_found(folder):
    (snippet,) = [text for page, number, text in SNIPPETS if (page, number) == ("docs/targets/onnx.md", 0)]
    for sound, broken in (("InferenceSession", "Session"), ("int8.onnx", "int4.onnx"), ("custom_metadata_map", "metadata")):
        assert sound in snippet
        with pytest.raises(Exception, match=r"Session|int4|metadata"):
            run(snippet.replace(sound, broken))
    assert absent("import no_such_package.part\nfrom json import loads\nfrom neither import x") == ["no_such_package", "neither"]


def test_openvinos_cpp_compiles_and_gives_the_same_class(folder, expected, tmp_path):
    openvino = pytest.importorskip("openvino")
    compiler, home = shutil.which("g++"), Path(openvino.__file__).parent
    if compiler is None or not (home / "include" / "openvino" / "openvino.hpp").exists():
        pytest.skip("not compiled: there is no g++, or this openvino came without its headers")
    (source,) = blocks((ROOT / "docs/targets/openvino.md").read_text("utf-8"), "cpp")
    (tmp_path / "run.cpp").write_text(source)
    (library,) = [file for file in (home / "libs").glob("libopenvino.so*") if not file.is_symlink()]
    options = [
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-isystem",
        home / "include",
        "run.cpp",
        library,
        f"-Wl,-rpath,{home / 'libs'}",
    ]
    subprocess.run([compiler, *options, "-o", "run"], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([tmp_path / "run"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert (folder / "classes.txt").read_text().split()[int(done.stdout)] == expected
