"""The arrows of docs and design: which room may import which, kept by reading the code, not by running it.

cli -> pipeline -> {report, lint, gate, package, measure, train, compress, quant, targets, compilers, runtimes, peers, remote}
    -> {formats, workers, graph, images, nets} -> core -> errors
analyze stands among the rooms of the first braces, and uses two of them: quant's parts, and report's tables and pages.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import squeeze_export
from squeeze_export.registry import COMPILERS, PEERS, RUNTIMES, TARGETS

PACKAGE = Path(squeeze_export.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = {
    "torch",
    "onnx",
    "onnxruntime",
    "tensorflow",
    "tflite_runtime",
    "ai_edge_litert",
    "openvino",
    "nncf",
    "coremltools",
    "mediapipe",
    "onnxruntime_qnn",
    "ethosu",
    "tflite_micro",
    "flatbuffers",
    "matplotlib",
    "scipy",
    "jinja2",
    "markupsafe",
}

CORE = {"core", "documents", "errors", "files", "registry", "results"}
LOW = CORE | {"formats", "workers", "graph", "images", "nets"}
WORKSHOPS = {"report", "lint", "gate", "package", "measure", "train", "compress", "quant", "targets", "compilers", "runtimes"}
WORKSHOPS |= {"peers", "remote"}

# What a room may import beside itself. A room is a folder of the package, or a module at its top.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},  # stands with core
    "core": {"errors"},
    "documents": {"errors", "files"},  # stands with core
    "results": {"core", "documents", "errors", "files"},  # likewise
    "registry": {"errors"},  # likewise
    "workers": CORE,
    "nets": CORE | {"formats"},
    "images": CORE,
    "graph": CORE | {"nets", "formats"},  # build.py reads the architecture, onnx_graph.py an ONNX file
    "formats": {"core", "errors", "files", "registry", "workers.worker"},  # a vendor's parser may end its process
    **dict.fromkeys(WORKSHOPS, LOW),
    "gate": LOW | {"measure"},  # judges with its statistics
    "report": LOW | {"gate.results"},  # shows what the gate found
    "analyze": LOW | {"quant", "report"},  # tries quantizations, and its page is a report's
    "remote": LOW | {"runtimes.session"},  # a session on a board is a session
    "demo": {"core", "nets"},  # data and where it lies
    "pipeline": LOW | WORKSHOPS | {"analyze", "demo"},
    # The command line shows what rooms hold: reports, the registries' names, a network's layers, the machine's inventory.
    "cli": {"pipeline", "demo", "report", "analyze"} | CORE,
    "__init__": set(),
    "__main__": {"cli"},
}

# Single files that may do more than their room, and why.
EXCEPTIONS: dict[str, set[str]] = {
    # The choices of options: names out of the registries.
    "cli/options/quantization.py": {"graph.quantized"},
    "cli/options/calibration.py": {"images.calibration"},
    "cli/options/completion.py": {"nets.download", "targets"},
    "cli/export.py": {"graph.quantized", "targets"},
    "cli/qnn.py": {"compilers.qnn"},
    "cli/ethosu.py": {"compilers.ethosu"},
    "cli/lint.py": {"lint"},
    "cli/executorch.py": {"compilers.executorch"},
    "cli/compile.py": {"compilers"},
    "cli/toolchain.py": {"workers.environments"},
    # Three commands that have no job in the pipeline: they print what one function returns.
    "cli/inspect.py": {"nets.architecture", "nets.complexity", "graph.costs", "graph.nodes"},
    "cli/weights.py": {"nets.download"},
    "cli/doctor.py": {"measure.environment"},
}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


@cache
def parsed(source: str) -> ast.Module:
    """Each file is asked about several times."""
    return ast.parse(source)


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere, `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(source: str) -> set[str]:
    """What is imported of this project, without its own name: `graph.nodes.Conv`. The version alone is free."""
    names = {name.removeprefix("squeeze_export.") for name in imports(parsed(source)) if name.startswith("squeeze_export.")}
    return names - {"__version__"}


def is_under(name: str, allowed: set[str]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in allowed)


def broken_arrows(file: str, source: str) -> list[str]:
    room = room_of(file)
    allowed = ROOMS[room] | EXCEPTIONS.get(file, set()) | {room}
    return sorted(name for name in own_imports(source) if not is_under(name, allowed))


def in_each_file(wrong_in: Callable[[str, str], list[str]]) -> dict[str, list[str]]:
    """File -> what is wrong in it, of the files where something is. `wrong_in` takes a file's name and its source."""
    found = {relative(path): wrong_in(relative(path), path.read_text(encoding="utf-8")) for path in FILES}
    assert len(found) > 100
    return {file: wrong for file, wrong in found.items() if wrong}


def test_arrows() -> None:
    assert in_each_file(broken_arrows) == {}


def test_every_exception_is_used() -> None:
    """A file that stopped needing its exception loses it."""
    for file, extra in EXCEPTIONS.items():
        if (PACKAGE / file).exists():
            names = own_imports((PACKAGE / file).read_text(encoding="utf-8"))
            assert all(any(is_under(name, {entry}) for name in names) for entry in extra), file


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("errors.py", "from squeeze_export.core import Audit", ["core.Audit"]),
        ("core.py", "import squeeze_export.graph.nodes", ["graph.nodes"]),
        ("graph/run.py", "from squeeze_export.images.preprocess import load_pixels", ["images.preprocess.load_pixels"]),
        ("nets/modules.py", "from squeeze_export.graph.nodes import Conv", ["graph.nodes.Conv"]),
        ("quant/ranges.py", "def f():\n    from squeeze_export.targets import TARGETS", ["targets.TARGETS"]),
        ("targets/onnx/__init__.py", "from squeeze_export.pipeline import run", ["pipeline.run"]),
        ("measure/host.py", "from squeeze_export.cli.console import note", ["cli.console.note"]),
        ("demo/__init__.py", "from squeeze_export import images", ["images"]),
        ("cli/bench.py", "from squeeze_export.graph.nodes import Conv", ["graph.nodes.Conv"]),
        ("cli/bench.py", "from squeeze_export.reporter import x", ["reporter.x"]),
        ("graph/build.py", "from squeeze_export.nets.architecture import Architecture", []),
    ],
)
def test_a_broken_arrow_is_found(file: str, line: str, broken: list[str]) -> None:
    """Negative control."""
    assert broken_arrows(file, line) == broken


def test_every_room_is_in_the_table() -> None:
    assert {room_of(relative(path)) for path in FILES} <= set(ROOMS)


# Modules of a registry's folder that are no entry of it: what its entries share.
SHARED = {"runtimes": {"session", "quiet", "foreign", "written_placement"}, "peers": {"network", "process"}}
# Entries that are driven through another one.
THROUGH = {"runtimes": {"qnn": "onnxruntime"}}


def crossings(folder: str, file: str, source: str) -> list[str]:
    """Modules of a registry's folder that a module imports though they are not its own: `_onnx_*` and `onnx/*` belong to `onnx`.

    Args:
        folder: of the package.
        file: below that folder.
        source: what the file holds.
    """
    owner = Path(file).parts[0].removesuffix(".py").removeprefix("_").split("_")[0]
    found = []
    for name in own_imports(source):
        room, _, rest = name.partition(".")
        module = rest.split(".")[0]
        if room != folder or not any((PACKAGE / folder / part).exists() for part in (f"{module}.py", f"{module}/__init__.py")):
            continue
        own = module.startswith(f"_{owner}") or module in (Path(file).parts[0], THROUGH.get(folder, {}).get(owner))
        if not (own or module in SHARED.get(folder, set())):
            found.append(module)
    return sorted(found)


@pytest.mark.parametrize("folder", ["targets", "compilers", "runtimes", "peers"])
def test_no_target_imports_a_target_and_no_runtime_a_runtime(folder: str) -> None:
    """What several runtimes, or peers, share lies in `SHARED`; targets share nothing."""
    for path in (PACKAGE / folder).rglob("*.py"):
        file = path.relative_to(PACKAGE / folder).as_posix()
        if file != "__init__.py":
            assert crossings(folder, file, path.read_text(encoding="utf-8")) == [], file


@pytest.mark.parametrize(
    ("folder", "file", "line", "found"),
    [
        ("targets", "openvino.py", "from squeeze_export.targets.onnx import emit", ["onnx"]),
        ("targets", "openvino.py", "from squeeze_export.targets import onnx", ["onnx"]),
        ("targets", "openvino/lowering.py", "from squeeze_export.targets.onnx.lowering import write_nodes", ["onnx"]),
        ("targets", "onnx/__init__.py", "from squeeze_export.targets.onnx.lowering import write_nodes", []),
        ("targets", "onnx.py", "from squeeze_export.targets import Target", []),
        ("runtimes", "executorch.py", "from squeeze_export.runtimes.tflite.litert import NAME", ["tflite"]),
        ("runtimes", "tflite/litert.py", "from squeeze_export.runtimes.quiet import quiet", []),
        ("runtimes", "onnxruntime/session.py", "from squeeze_export.runtimes.tflite import litert", ["tflite"]),
        ("runtimes", "onnxruntime/session.py", "from squeeze_export.runtimes.onnxruntime.calls import opened", []),
        ("runtimes", "qnn/plugin.py", "from squeeze_export.runtimes.onnxruntime.calls import opened", []),
        ("runtimes", "onnxruntime/calls.py", "from squeeze_export.runtimes.qnn.plugin import entries", ["qnn"]),
    ],
)
def test_a_crossing_is_found(folder: str, file: str, line: str, found: list[str]) -> None:
    """Negative control."""
    assert crossings(folder, file, line) == found


@pytest.mark.parametrize(
    ("folder", "registry"),
    [("targets", TARGETS), ("compilers", COMPILERS), ("runtimes", RUNTIMES), ("peers", PEERS)],
)
def test_the_folder_equals_the_registry(folder: str, registry: dict[str, str]) -> None:
    """Each entry is a module that is there, and each module or package directly in the folder holds an entry, or is shared."""
    for module in registry.values():
        path = PACKAGE.parent / module.partition(":")[0].replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), module
    inside = (PACKAGE / folder).glob("[!_]*")
    there = {path.stem for path in inside if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - SHARED.get(folder, set()) == {module.split(".")[2] for module in registry.values()}
    assert len(set(registry.values())) == len(registry)


def unguarded(source: str) -> list[str]:
    """Frameworks imported when the module is, rather than when a function runs. Type-checking blocks do not run."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(parsed(source))
    return sorted({name.split(".")[0] for name in found} & FRAMEWORKS)


def test_frameworks_are_imported_inside_functions() -> None:
    assert in_each_file(lambda _, source: unguarded(source)) == {}


def test_an_unguarded_framework_is_found() -> None:
    """Negative control."""
    assert unguarded("import torch.nn") == ["torch"]
    assert unguarded("try:\n    from onnx import helper\nexcept ImportError:\n    pass") == ["onnx"]
    assert unguarded("class A:\n    import scipy") == ["scipy"]
    assert unguarded("def f():\n    import torch") == []
    assert unguarded("if TYPE_CHECKING:\n    import torch\nelse:\n    import scipy") == ["scipy"]


LOADERS = {f"{module}.{name}" for module in ("pickle", "marshal", "shelve", "dill", "joblib") for name in ("load", "loads", "open")}
LOADERS |= {"pickle.Unpickler", "eval", "exec", "__import__"}


def executions(source: str) -> list[str]:
    """What runs data as code: eval, exec, a loading pickle, and torch.load unless it says `weights_only=True`."""
    tree = parsed(source)
    found = [name for name in imports(tree) if name in LOADERS]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        safe = any(keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in call.keywords)
        if name in LOADERS or (name == "torch.load" and not safe):
            found.append(name)
    return found


def test_no_data_is_run_as_code() -> None:
    assert in_each_file(lambda _, source: executions(source)) == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(x):\n    return eval(x)", ["eval"]),
        ("from pickle import loads", ["pickle.loads"]),
        ("import pickle\npickle.Unpickler(file)", ["pickle.Unpickler"]),
        ("torch.load(file)", ["torch.load"]),
        ("torch.load(file, weights_only=False)", ["torch.load"]),
        ("torch.load(file, weights_only=True)", []),
        ("import pickle\ntry:\n    pass\nexcept pickle.UnpicklingError:\n    pass", []),
        ("model.eval()", []),  # torch's, which runs nothing
    ],
)
def test_data_run_as_code_is_found(source: str, found: list[str]) -> None:
    """Negative control."""
    assert executions(source) == found


def test_modules_are_called_after_what_they_hold() -> None:
    empty_words = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
    assert [relative(path) for path in PACKAGE.rglob("*") if set(path.stem.strip("_").split("_")) & empty_words] == []


def shared_class_names(sources: dict[str, str]) -> set[str]:
    """Public classes of one name in several rooms: file -> its source."""
    rooms: dict[str, set[str]] = {}
    for file, source in sources.items():
        for node in parsed(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                rooms.setdefault(node.name, set()).add(room_of(file))
    return {name for name, found in rooms.items() if len(found) > 1}


def test_no_two_rooms_have_a_public_class_of_one_name() -> None:
    assert shared_class_names({relative(path): path.read_text(encoding="utf-8") for path in FILES}) == set()


def test_a_class_of_the_same_name_in_another_room_is_found() -> None:
    """Negative control."""
    assert shared_class_names({"nets/a.py": "class Net: ...", "graph/b.py": "class Net: ...\nclass _Net: ..."}) == {"Net"}
    assert shared_class_names({"nets/a.py": "class Net: ...", "nets/b.py": "class Net: ..."}) == set()


def test_help_imports_no_framework_and_no_numpy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "squeeze_export", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {
        line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert "click" in imported  # the record was read
    assert imported & (FRAMEWORKS | {"numpy", "PIL", "rich", "safetensors"}) == set()
