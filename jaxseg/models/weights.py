"""Weights under the names that PyTorch users know, into the variables of our networks.

Parameters of the encoders have torchvision's names with a slash for each dot, and ESPNetv2's are
renamed by `ESPNETV2`; kernels are transposed, and what counts batches is dropped. Every fault of a
file is reported at once.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.types import InputError, PyTree

Naming = Sequence[tuple[str, str]]
"""Pairs (regular expression, replacement), applied one after the other to a name with dots."""

ESPNETV2: Naming = (
    (r"^base_net\.", "encoder."),
    (r"\.(level\d)\.(\d)\.", r".\1_unit\2."),
    (r"\.spp_dw\.(\d)\.conv\.", r".branch\1."),
    (r"\.inp_reinf\.0\.", ".reinforcement1."),
    (r"\.inp_reinf\.1\.", ".reinforcement2."),
    (r"^bu_dec_l(\d)\.", r"decoder.pyramid\1."),
    (r"^merge_enc_dec_l(\d)\.", r"decoder.skip\1."),
    (r"^bu_br_l(\d)\.0\.", r"decoder.norm\1.bn."),
    (r"^bu_br_l(\d)\.1\.", r"decoder.norm\1.act."),
    (r"\.merge_layer\.0\.", ".merge_norm."),
    (r"\.merge_layer\.2\.", ".merge."),
    (r"\.merge_layer\.3\.", ".expansion."),
    (r"\.projection_layer\.", ".projection."),
    (r"\.expansion_layer\.", ".expansion."),
    (r"\.wt_layer\.1\.", ".gate."),
    (r"\.stages\.(\d)\.", r".stage\1."),
    (r"\.cbr\.0\.", ".conv."),
    (r"\.cbr\.1\.", ".bn."),
    (r"\.cbr\.2\.", ".act."),
    (r"\.br\.0\.", ".bn."),
    (r"\.br\.1\.", ".act."),
)
"""EdgeNets' segmentation networks to `models.espnet`."""

FCN_VGG16: Naming = (
    (r"^features\.", "encoder.features."),
    (r"^classifier\.0\.", "fc.fc6."),
    (r"^classifier\.3\.", "fc.fc7."),
)
"""torchvision's VGG-16, its classifier too, to `models.fcn`."""

DILATED_VGG16: Naming = ((r"^classifier\.0\.", "fc6."), (r"^classifier\.3\.", "fc7."))
"""The same to `models.dilated`."""

HRNET: Naming = (
    (r"^transition(\d)\.(\d)\.0\.([01])\.", r"transition\1_\2.\3."),
    (r"^transition(\d)\.(\d)\.", r"transition\1_\2."),
    (r"^stage(\d)\.(\d)\.", r"stage\1_\2."),
    (r"\.branches\.(\d)\.", r".branch\1."),
    (r"\.fuse_layers\.(\d)\.(\d)\.(\d)\.([01])\.", r".fuse\1_\2_\3.\4."),
    (r"\.fuse_layers\.(\d)\.(\d)\.([01])\.", r".fuse\1_\2.\3."),
)
"""The authors' networks for poses (`pose_hrnet`) to `models.hrnet`."""

CLASSIFIERS = (r"^fc\.", r"^classifier\.")
"""What an encoder leaves out of torchvision's ResNets, VGG and MobileNetV2."""

_SHOWN = 8
_MEND = "give weights of this network, or the naming that they follow"
_STATISTICS = {"running_mean": "mean", "running_var": "var"}


class MismatchError(InputError):
    """Tensors that are not those of a network.

    Its one line names the first of each kind and how many more there are.

    Attributes:
        faults: every one, by kind, such as {"missing": ["params/conv1/kernel"]}.
    """

    def __init__(self, source: object, faults: Mapping[str, Sequence[str]], mend: str):
        self.faults = {kind: list(names) for kind, names in faults.items() if names}
        told = [f"{kind}: {_first(names)}" for kind, names in self.faults.items()]
        super().__init__(f"{source}: not of this network ({'; '.join(told)}); {mend}")


def _first(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def read(
    path: Path,
    variables: PyTree,
    *,
    naming: Naming = (),
    leave_out: Sequence[str] = (),
    keep: Sequence[str] = (),
) -> PyTree:
    """`read_tensors` and `to_variables` of a file.

    Raises:
        InputError: as these.
    """
    tensors = read_tensors(path)
    return to_variables(
        tensors, variables, naming=naming, leave_out=leave_out, keep=keep, source=path
    )


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, or of a .pth file where torch is installed, by name.

    Of a .pth checkpoint the entry "state_dict" is taken if there is one, and the prefix "module."
    of parallel training is cut off. Nothing in the file is executed.

    Raises:
        InputError: if the file cannot be read.
    """
    path = Path(path)
    tensors = _read_torch(path) if path.suffix in (".pth", ".pt") else _read_safetensors(path)
    prefix = "module."
    if tensors and all(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    # TypeError: a kind of number that NumPy lacks.
    except (SafetensorError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: damaged, or no safetensors file ({reason}); copy it again, or give a .pth "
            "file that name"
        ) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path}: needs torch to be read; install torch, or convert it to safetensors"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # What torch raises depends on the kind of damage.
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: damaged, or more than weights ({reason}); save its state_dict alone"
        ) from error
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise InputError(f"{path}: no state_dict; save that of the network with torch.save")
    return {
        name: (value.float() if value.is_floating_point() else value).numpy()
        for name, value in state.items()
    }


def to_variables(
    tensors: Mapping[str, np.ndarray],
    variables: PyTree,
    *,
    naming: Naming = (),
    leave_out: Sequence[str] = (),
    keep: Sequence[str] = (),
    source: object = "weights",
) -> PyTree:
    """Tensors under PyTorch's names, or under jaxseg's own, as variables of a network.

    A linear layer's weight fits a convolution that sees the layer's whole input.

    Args:
        tensors: by name; jaxseg's own names are paths, "params/conv1/kernel".
        variables: {"params", "batch_stats"} of the network, or of a part of it, of arrays or of
            `jax.ShapeDtypeStruct`.
        naming: how names become those of the network; see `ESPNETV2`.
        leave_out: regular expressions of names of `tensors` that are not wanted.
        keep: regular expressions of paths of `variables`, with slashes, that the tensors need not
            hold; these must be arrays, and stay as they are.
        source: what the message begins with, such as the file.

    Returns:
        The tree of `variables` with NumPy arrays from the tensors.

    Raises:
        MismatchError: tensors are missing, unexpected, or of another shape.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
    expected = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}
    found: dict[str, Any] = {}
    unexpected, other = [], []
    for name, value in tensors.items():
        if name.endswith(".num_batches_tracked") or any(re.search(p, name) for p in leave_out):
            continue
        path = name if name in expected else _path(name, naming, expected)
        if path is None or path in found:
            unexpected.append(name)
            continue
        wanted = tuple(expected[path].shape)
        value = value if path == name else _turned(value, path, wanted)
        if value.shape != wanted:
            other.append(f"{name} is {list(tensors[name].shape)}, for {path} {list(wanted)}")
        found[path] = value
    missing = [
        path for path in expected if path not in found and not any(re.search(p, path) for p in keep)
    ]
    faults = {"missing": missing, "unexpected": unexpected, "misshapen": other}
    if any(faults.values()):
        raise MismatchError(source, faults, _MEND)
    return jax.tree_util.tree_unflatten(
        structure,
        [
            np.asarray(found[path], leaf.dtype) if path in found else leaf
            for path, leaf in expected.items()
        ],
    )


def _path(name: str, naming: Naming, expected: Mapping[str, Any]) -> str | None:
    """Where a tensor of PyTorch's belongs; None: nowhere."""
    for pattern, replacement in naming:
        name = re.sub(pattern, replacement, name)
    *place, leaf = name.split(".")
    if leaf in _STATISTICS:
        options = [("batch_stats", _STATISTICS[leaf])]
    elif leaf == "weight":
        options = [("params", own) for own in ("kernel", "scale", "negative_slope")]
    else:
        options = [("params", leaf)]
    paths = ("/".join((half, *place, own)) for half, own in options)
    return next((path for path in paths if path in expected), None)


def _turned(value: np.ndarray, path: str, wanted: tuple[int, ...]) -> np.ndarray:
    """PyTorch's order of axes, (out, in, height, width) or (out, in), to ours."""
    if not path.endswith("/kernel"):
        return value
    if value.ndim == 2 and len(wanted) == 4:
        height, width, inputs, outputs = wanted
        if value.shape == (outputs, inputs * height * width):
            value = value.reshape(outputs, inputs, height, width)
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value
