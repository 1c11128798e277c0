"""Reading and writing a file of weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.files import write_file
from jaxseg.types import InputError
from jaxseg.weights._card import Card

_MEND = "copy it again, or pack it anew with `jaxseg weights pack`"
_ALIGNMENT = 8


def write_weights(path: Path, card: Card, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file of weights; the same weights and card give the same bytes.

    Args:
        path: the file.
        card: its header.
        tensors: float32, by name.

    Raises:
        ValueError: if a tensor is not float32.
        InputError: if the file cannot be written.
    """
    from safetensors.numpy import save

    for name, value in tensors.items():
        if value.dtype != np.float32:
            raise ValueError(f"{name} is {value.dtype}; expected float32")
    header = {**card._asdict(), "config": json.dumps(card.config, sort_keys=True)}
    metadata = {key: str(value) for key, value in header.items()}
    data = save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata=metadata)
    write_file(path, lambda file: file.write(_sorted_header(data)))


def _sorted_header(data: bytes) -> bytes:
    """The library writes the metadata in another order each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return len(header).to_bytes(8, "little") + header + data[end:]


def read_weights(path: Path) -> tuple[Card, dict[str, np.ndarray]]:
    """Reads a file of weights.

    Returns:
        Its card, and the tensors by name, which nothing has checked yet: see `check_tensors`.

    Raises:
        InputError: if it is damaged, or no file of weights of jaxseg.
    """
    return _read(path, with_tensors=True)


def read_card(path: Path) -> Card:
    """Reads the header of a file of weights alone.

    Raises:
        InputError: as `read_weights`.
    """
    return _read(path, with_tensors=False)[0]


def _read(path: Path, *, with_tensors: bool) -> tuple[Card, dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys() if with_tensors else []
            tensors = {name: file.get_tensor(name) for name in names}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {_MEND}") from error
    # TypeError: a kind of number that NumPy lacks.
    except (SafetensorError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: damaged, or no safetensors file ({reason}); {_MEND}") from error
    return _card(metadata, path), tensors


def _card(metadata: Mapping[str, str], path: Path) -> Card:
    missing = [name for name in Card._fields if name not in metadata]
    if missing:
        raise InputError(
            f"{path}: not weights packed by jaxseg, its header lacks {', '.join(missing)}; "
            "pack a run with `jaxseg weights pack`"
        )
    values: dict[str, Any] = {name: metadata[name] for name in Card._fields}
    try:
        values["config"] = dict(json.loads(values["config"]))
        values["step"] = int(values["step"])
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: its header is damaged ({error}); {_MEND}") from error
    return Card(**values)
