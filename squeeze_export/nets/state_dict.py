"""From what a file holds to the tensors of one SqueezeNet under torchvision's keys.

A training checkpoint has the state dict at any depth, under any prefix, beside tensors of the optimizer, the loss, a moving
average. What is a network is told by its layers (`layers.find_layers`), never by a list of keys. What is left out is noted; what
cannot be left out surely is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Assumption
from squeeze_export.errors import BadInput
from squeeze_export.nets.batch_norm import EPS, STATISTICS, folded, norms_of, owners_of
from squeeze_export.nets.layers import IMAGE_CHANNELS, Layers, NoMatch, find_layers, pools_between, pools_of_member, weights_of
from squeeze_export.nets.pickled import Unbuilt
from squeeze_export.nets.recognition import is_torchvision_key, recognize
from squeeze_export.nets.stored import FLOAT_BYTES, Shape, StoredTensor
from squeeze_export.nets.torch_reader import SAVE_HINT

MAX_DEPTH = 8
MAX_VALUES = 2_000_000
MAX_KEY_CHARACTERS = 300
MAX_LAYERS = 2000
MODULE_STATE = "_modules"
_FOREIGN_PARTS = re.compile(
    r"criterion|criteria|loss(es|_\w+)?|\w+_loss|metrics?|\w+_metrics?|(train|val|valid|test)_(acc\w*|f1\w*)|optimizers?|\w*scheduler|scaler"
)
_FOREIGN_NAMES = frozenset({
    "n_averaged", "num_batches_tracked", "best_acc1", "best_acc", "best_prec1", "best_loss", "epoch", "step", "global_step",
    "total_ops", "total_params",
})  # fmt: skip
_PIXELS = frozenset(("mean", "std", "pixel_mean", "pixel_std"))
_ONNX_HINT = "export it with torch.onnx.export and give the .onnx file: a graph tells what names do not"

Array = NDArray[np.float32]


@dataclass(eq=False)
class StoredValues:
    """What a file holds, flat.

    Attributes:
        tensors: path (keys with dots between) -> tensor.
        objects: path -> name of what was not built, and whether it is a pickled module.
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    objects: dict[str, tuple[str, bool]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Found:
    """The network in a file.

    Attributes:
        tensors: torchvision's key -> array.
        linear_head: whether its head is a linear layer; then no ReLU stands behind it.
        assumptions: of what the names and shapes do not tell.
        notes: what was left out or changed.
    """

    tensors: Mapping[str, Array]
    linear_head: bool
    assumptions: tuple[Assumption, ...]
    notes: tuple[str, ...]


def flattened(values: Any, name: str) -> StoredValues:
    """Goes through containers, to a bounded depth; each is gone through once, wherever it is named.

    Raises:
        BadInput: there are too many values.
    """
    contents, seen, count = StoredValues(), set(), 0
    waiting: list[tuple[str, Any, int]] = [("", values, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            raise BadInput(f"`{name}` holds more than {MAX_VALUES} values")
        if isinstance(value, StoredTensor):
            contents.tensors[path] = value
        elif isinstance(value, Unbuilt):
            contents.objects[path] = value.name, isinstance(value.state, dict) and MODULE_STATE in value.state
        elif isinstance(value, dict | list | tuple) and depth < MAX_DEPTH and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            inner = [(f"{path}.{key}" if path else str(key), item, depth + 1) for key, item in items]
            waiting += [entry for entry in reversed(inner) if len(entry[0]) <= MAX_KEY_CHARACTERS]
    return contents


def network_in(contents: StoredValues, name: str, size_bytes: int, *, key: str | None, ordered: bool) -> Found:
    """Finds the network, leaves out what is none of its, multiplies masks in, folds BatchNorm, and names all as torchvision does.

    Args:
        contents: of the file.
        name: of the file, for messages.
        size_bytes: of the file: the network's tensors have no more than that.
        key: which of several networks, by a part of its path; None where there is one.
        ordered: whether the file's order is that of the program, as in what torch saves.

    Raises:
        BadInput: there is no SqueezeNet, or several, or one with a layer that cannot be told or folded.
    """
    tensors, notes = unpruned(contents.tensors)
    root, beside = _root(tensors, contents, name, key)
    inside = {path.removeprefix(root): tensor for path, tensor in tensors.items() if path.startswith(root)}
    for path, (kind, _) in contents.objects.items():
        if path.startswith(root):
            _refuse_object(path, kind, name)
    foreign = {path: None for path, tensor in inside.items() if _is_foreign(path) or _is_pixels(path, tensor)}
    own = {path: tensor for path, tensor in inside.items() if path not in foreign}
    notes += _left_out([*beside, *(root + path for path in foreign)], root, tensors)
    notes += [f"left out, and not built: `{path}`, a `{kind}`" for path, (kind, _) in contents.objects.items()][:4]
    try:
        return _named(own, name, size_bytes, notes, ordered=ordered)
    except NoMatch as err:
        _refuse(name, str(err), own)


def _named(own: Mapping[str, StoredTensor], name: str, size_bytes: int, notes: Sequence[str], *, ordered: bool) -> Found:
    """The tensors under torchvision's keys.

    Raises:
        NoMatch: the layers are no SqueezeNet's.
    """
    shapes = {path: tensor.shape for path, tensor in own.items()}
    weights = weights_of(shapes)
    layers = find_layers(weights, ordered=ordered)
    norms = norms_of(shapes)
    owners, by_order = owners_of(norms, layers, weights, ordered=ordered)
    _refuse_leftovers(own, layers, norms, name)
    plain = [layer for layer in weights if layer not in owners and layer != layers.head]
    without = [layer for layer in plain if f"{layer}.bias" not in own]
    if 0 < len(without) < len(plain):
        raise NoMatch(f"has no tensor `{without[0]}.bias`, and other layers have one")
    pools, assumed = _pools(layers, weights, norms)
    arrays = _read(own, name, size_bytes)
    found: dict[str, Array] = {}
    for layer, target in zip(layers.names(), _torchvision_names(layers, pools), strict=True):
        weight = arrays[f"{layer}.weight"]
        weight = weight[:, :, None, None] if weight.ndim == 2 else weight
        bias = arrays.get(f"{layer}.bias")
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        if bias.shape != weight.shape[:1]:
            raise NoMatch(f"has a bias `{layer}.bias` of shape `{bias.shape}` for {len(weight)} channels")
        if layer in owners:
            parts = {part: arrays[key] for part in (*STATISTICS, "weight", "bias") if (key := f"{owners[layer]}.{part}") in arrays}
            weight, bias = folded(weight, bias, parts)
        found[f"{target}.weight"], found[f"{target}.bias"] = weight, bias
    notes = [*notes, *([f"folded {len(owners)} BatchNorms into the convolutions before them"] if owners else [])]
    if owners:
        assumed.append(Assumption("BatchNorm", f"BatchNorm right behind its convolution, eps {EPS:g}", "torch's default"))
    if by_order:
        assumed.append(Assumption("BatchNorm order", "BatchNorms in the order of the convolutions", "their names do not tell"))
    if layers.linear:
        assumed.append(
            Assumption("linear head", "linear layer behind the average pool, no ReLU after it", "a state dict does not tell")
        )
    return Found(found, layers.linear, tuple(assumed), tuple(notes))


def _pools(layers: Layers, weights: Mapping[str, Shape], norms: Mapping[str, int]) -> tuple[tuple[int, ...], list[Assumption]]:
    """After which Fire modules a pool stands, and what was assumed for it."""
    pools = pools_between(layers, list(norms))
    if pools is not None:
        return pools, []
    member = pools_of_member(layers, weights)
    if member is None:
        raise NoMatch("has names that do not show where its pools are, and widths of no published SqueezeNet that would tell")
    places = " and ".join(f"fire{position + 2}" for position in member[1])
    return member[1], [Assumption("places of the pools", f"pools after conv1, {places}", f"the widths are those of `{member[0]}`")]


def _torchvision_names(layers: Layers, pools: Sequence[int]) -> list[str]:
    """torchvision's names of the layers, in the order of computation."""
    names, index = ["features.0"], 3
    for position, fire in enumerate(layers.fires):
        names += [f"features.{index}.{part}" for part in ("squeeze", "expand1x1", "expand3x3", "bypass")[: len(fire.layers)]]
        index += 2 if position in pools else 1
    return [*names, "classifier.1"]


def _read(own: Mapping[str, StoredTensor], name: str, size_bytes: int) -> dict[str, Array]:
    """Reads all tensors, if they are floats and have no more bytes than the file."""
    for path, tensor in own.items():
        if tensor.dtype not in FLOAT_BYTES:
            quantized = " (the network is quantized already)" if "q" in tensor.dtype and "int" in tensor.dtype else ""
            raise BadInput(f"tensor `{path}` of `{name}` is `{tensor.dtype}`; {', '.join(FLOAT_BYTES)} are read{quantized}")
    if sum(tensor.size_bytes for tensor in own.values()) > size_bytes:
        raise BadInput(f"the tensors of `{name}` claim more data than it has: they share it")
    return {path: tensor.read() for path, tensor in own.items()}


def unpruned(stored: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], list[str]]:
    """Multiplies `weight_orig` and `weight_mask` (torch.nn.utils.prune) out.

    Returns:
        The tensors, pruned ones under the name without `_orig`, and a note if there are any.

    Raises:
        BadInput: a mask of another shape than its tensor, or not of floats.
    """
    tensors, count = {}, 0
    for path, tensor in stored.items():
        plain, mask = path.removesuffix("_orig"), stored.get(f"{path.removesuffix('_orig')}_mask")
        if plain != path and mask is not None and plain not in stored:
            if mask.shape != tensor.shape or not {mask.dtype, tensor.dtype} <= set(FLOAT_BYTES):
                raise BadInput(f"`{path}` is `{tensor.shape}`, and its mask `{mask.shape}` of `{mask.dtype}`")
            tensors[plain] = _masked(tensor, mask)
            count += 1
        elif not (path.endswith("_mask") and f"{path.removesuffix('_mask')}_orig" in stored):
            tensors[path] = tensor
    return tensors, [f"multiplied {count} pruned tensors by their masks"] if count else []


def _masked(tensor: StoredTensor, mask: StoredTensor) -> StoredTensor:
    return StoredTensor(tensor.shape, tensor.dtype, lambda: tensor.read() * mask.read())


def _root(tensors: Mapping[str, StoredTensor], contents: StoredValues, name: str, key: str | None) -> tuple[str, list[str]]:
    """The prefix of the network's tensors, with its dot, and the paths of all others."""
    weights = weights_of({path: tensor.shape for path, tensor in tensors.items()})
    if len(weights) > MAX_LAYERS:
        raise BadInput(f"`{name}` has more than {MAX_LAYERS} layers, and a SqueezeNet has 26")
    weights = {layer: shape for layer, shape in weights.items() if not _is_foreign(f"{layer}.weight")}
    roots = [root for root in _roots(weights) if key is None or f".{key.strip('.')}." in f".{root}"]
    if len(roots) > 1:
        listed = [root.rstrip(".") for root in roots]
        raise BadInput(
            f"`{name}` holds `{len(roots)}` networks: {', '.join(f'`{root}`' for root in listed[:6])}",
            hint=f"choose one: {', or '.join(f'--checkpoint-key {root}' for root in listed[:3])}",
        )
    if not roots and key is not None:
        there = sorted({path.split(".")[0] for path in tensors})[:8]
        raise BadInput(
            f"`{name}` holds no SqueezeNet under `{key}`; it holds {', '.join(f'`{part}`' for part in there) or 'no tensors'}"
        )
    if not roots:
        _refuse_without_root(tensors, weights, contents, name)
    others = [f"`{layer}`" for layer in weights if not f"{layer}.".startswith(roots[0])]
    if others and key is None:
        place = roots[0].rstrip(".")
        raise BadInput(
            f"`{name}` has layers beside the network under `{place}`: {', '.join(others[:6])}{' ...' if len(others) > 6 else ''}",
            hint=f"--checkpoint-key {place}, if they are no part of it",
        )
    return roots[0], [path for path in tensors if not path.startswith(roots[0])]


def _roots(weights: Mapping[str, Shape]) -> list[str]:
    """The prefixes, each with its dot, under which there is one whole SqueezeNet; the longest ones."""
    under: dict[str, dict[str, Shape]] = {}
    for layer, shape in weights.items():
        parts = layer.split(".")
        for depth in range(len(parts)):
            prefix = "".join(f"{part}." for part in parts[:depth])
            under.setdefault(prefix, {})[layer.removeprefix(prefix)] = shape
    roots: list[str] = []
    for prefix in sorted(under, key=lambda prefix: -prefix.count(".")):
        if not any(root.startswith(prefix) for root in roots) and _is_whole(under[prefix]):
            roots.append(prefix)
    return sorted(roots, key=list(under).index)


def _is_whole(weights: Mapping[str, Shape]) -> bool:
    for ordered in (False, True):
        try:
            find_layers(weights, ordered=ordered)
        except NoMatch:
            continue
        return True
    return False


def _is_foreign(path: str) -> bool:
    parts = path.split(".")
    return parts[-1] in _FOREIGN_NAMES or any(_FOREIGN_PARTS.fullmatch(part) for part in parts[:-1])


def _is_pixels(path: str, tensor: StoredTensor) -> bool:
    """Whether this looks like the mean or the standard deviation of pixels, one value for each channel."""
    return path.split(".")[-1] in _PIXELS and tensor.dtype in FLOAT_BYTES and math.prod(tensor.shape) in IMAGE_CHANNELS


def _left_out(paths: Sequence[str], root: str, tensors: Mapping[str, StoredTensor]) -> list[str]:
    """One line about the tensors that are no part of the network, by groups."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        last = path.split(".")[-1]
        groups.setdefault(last if path.startswith(root) and last in _FOREIGN_NAMES else _beside(path, root), []).append(path)
    listed = [f"`{group}` ({len(found)} tensors)" if len(found) > 1 else f"`{found[0]}`" for group, found in groups.items()]
    lines = [f"left out, no part of the network: {', '.join(listed[:8])}{' ...' if len(listed) > 8 else ''}"] if listed else []
    for path in paths:
        if _is_pixels(path, tensors[path]):
            values = ", ".join(f"{value:g}" for value in tensors[path].read().ravel())
            lines.append(f"`{path}` ({values}) looks like pixels' mean or std: set --mean and --std if the network applies them")
    return lines


def _beside(path: str, root: str) -> str:
    """The part of a path down to where it leaves the root's."""
    parts = path.split(".")
    depth = 1
    while depth < len(parts) and root.startswith("".join(f"{part}." for part in parts[:depth])):
        depth += 1
    return ".".join(parts[:depth])


def _refuse_leftovers(own: Mapping[str, StoredTensor], layers: Layers, norms: Mapping[str, int], name: str) -> None:
    """Refuses tensors that belong to no layer: a network that has them computes something else."""
    known = {f"{layer}.{part}" for layer in layers.names() for part in ("weight", "bias")}
    known |= {f"{norm}.{part}" for norm in norms for part in ("weight", "bias", *STATISTICS)}
    left = [path for path in own if path not in known]
    if not left:
        return
    shown = ", ".join(f"`{path}`" for path in left[:6]) + (f" and {len(left) - 6} more" if len(left) > 6 else "")
    if any(path.endswith(("_g", "_v", ".original", ".original0")) for path in left):
        raise BadInput(
            f"`{name}` has parametrized weights: {shown}", hint="remove_weight_norm or remove_parametrizations, and save again"
        )
    pairs = [
        path
        for path in left
        if path.endswith(".weight") and f"{path.removesuffix('weight')}bias" in own and len(own[path].shape) == 1
    ]
    what = " (a normalization without running statistics cannot be folded)" if pairs else ""
    raise BadInput(f"`{name}` has tensors that no layer of a SqueezeNet has: {shown}{what}", hint=_ONNX_HINT)


def _refuse_object(path: str, kind: str, name: str) -> NoReturn:
    raise BadInput(f"`{name}` holds code or an object (`{kind}`) at `{path}`, and that is never loaded", hint=SAVE_HINT)


def _refuse_without_root(
    tensors: Mapping[str, StoredTensor], weights: Mapping[str, Shape], contents: StoredValues, name: str
) -> NoReturn:
    modules = [(path, kind) for path, (kind, is_module) in contents.objects.items() if is_module]
    if modules and not weights:
        path, kind = modules[0]
        where = f" at `{path}`" if path else ""
        raise BadInput(f"`{name}` is a whole pickled module{where} (`{kind}`): code, and that is never loaded", hint=SAVE_HINT)
    if contents.objects and not weights:
        path, (kind, _) = next(iter(contents.objects.items()))
        _refuse_object(path or "its top", kind, name)
    if not tensors:
        raise BadInput(f"`{name}` holds no state dict: there is no tensor in it", hint=SAVE_HINT)
    _refuse_damaged({path: tensor.shape for path, tensor in tensors.items()})
    quantized = any(tensor.dtype.startswith("q") for tensor in tensors.values())
    reason = "holds quantized tensors, and networks are read in float" if quantized else "has no layer with a weight"
    if weights:
        try:
            find_layers(weights, ordered=True)
        except NoMatch as err:
            reason = str(err)
    _refuse(name, reason, tensors)


def _refuse_damaged(shapes: Mapping[str, Shape]) -> None:
    """Names what is wrong where most names are torchvision's, behind a common prefix."""
    plain = {
        key[key.find("features.") if "features." in key else max(key.find("classifier."), 0) :]: shape
        for key, shape in shapes.items()
    }
    if 2 * sum(map(is_torchvision_key, plain)) > len(plain):
        recognize(plain)


def _refuse(name: str, reason: str, tensors: Mapping[str, StoredTensor]) -> NoReturn:
    """Says why the tensors are no SqueezeNet's, and lists them."""
    listed = [f"`{path}` {_told(tensor)}" for path, tensor in list(tensors.items())[:6]]
    more = f" and {len(tensors) - 6} more" if len(tensors) > 6 else ""
    raise BadInput(f"`{name}` {reason}; its tensors: {', '.join(listed)}{more}", hint=_ONNX_HINT)


def _told(tensor: StoredTensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return shape if tensor.dtype in FLOAT_BYTES else f"{shape} ({tensor.dtype})"
