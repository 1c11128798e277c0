"""Optical flow: the .flo files of Middlebury and Sintel, and what scaling and mirroring do to it.

A flow is float32 `[H, W, 2]`: how far the content of a pixel moves, in pixels, to the right and
down, in this order, as the files have it. NaN is unknown. In an example it is the `target`: any
float32 `[H, W, C]` of which superpixels are to keep the means; depth is one with a single channel.
"""

import os
import pathlib
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Float32

from jaxseg.data.files import write_file
from jaxseg.types import InputError

_MAGIC = np.float32(202021.25)
_UNKNOWN = np.float32(1e10)
_LARGEST = 1e9
_HEADER = 12
_MOST_PIXELS = 1 << 28


def read_flow(path: str | os.PathLike[str]) -> Float32[np.ndarray, "h w 2"]:
    """Reads a .flo file (Baker et al., "A Database and Evaluation Methodology for Optical Flow").

    Values beyond 1e9, which mark unknown flow there, become NaN in both components.

    Raises:
      InputError: the file is missing, has another format, or another length than its header says.
    """
    with _opened(path) as file:
        height, width = _read_size(file, path)
        content = file.read()
    if len(content) != height * width * 8:
        raise InputError(
            f"{path}: {len(content)} bytes of flow, its header says {height}x{width} "
            f"(height x width), {height * width * 8} bytes; copy the file again"
        )
    flow = np.frombuffer(content, "<f4").reshape(height, width, 2).astype(np.float32)
    flow[~(np.abs(flow) <= _LARGEST).all(axis=-1)] = np.nan
    return flow


def flow_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of a .flo file, from its header alone.

    Raises:
      InputError: the file is missing or has another format.
    """
    with _opened(path) as file:
        return _read_size(file, path)


def write_flow(path: str | os.PathLike[str], flow: Float[np.ndarray, "h w 2"]) -> None:
    """Writes a .flo file, whole or not at all; NaN as 1e10.

    Raises:
      InputError: the suffix is not .flo, or the folder is missing, closed, or full.
    """
    if pathlib.Path(path).suffix.lower() != ".flo":
        raise InputError(f"{os.fspath(path)}: flow is written as .flo; change the suffix")
    unknown = np.isnan(flow).any(axis=-1, keepdims=True)
    size = np.array(flow.shape[1::-1], "<i4")
    values = np.where(unknown, _UNKNOWN, flow).astype("<f4")
    content = _MAGIC.astype("<f4").tobytes() + size.tobytes() + values.tobytes()
    write_file(path, lambda file: file.write(content))


def rescale_flow(
    flow: Float32[np.ndarray, "h w 2"], scale: float, flipped: bool
) -> Float32[np.ndarray, "h w 2"]:
    """The flow of an image after it was scaled and then, if `flipped`, mirrored left to right.

    Its pixels are those of the new image already; this changes the vectors, whose unit is now the
    new pixel and whose first component points the other way in a mirror.
    """
    return flow * np.array([-scale if flipped else scale, scale], np.float32)


def keep_values(
    target: Float32[np.ndarray, "h w c"], scale: float, flipped: bool
) -> Float32[np.ndarray, "h w c"]:
    """In place of `rescale_flow` for what scaling and mirroring leave as it is, such as depth."""
    return target


def _opened(path: str | os.PathLike[str]) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); check the path") from None


def _read_size(file: BinaryIO, path: str | os.PathLike[str]) -> tuple[int, int]:
    header = file.read(_HEADER)
    if len(header) < _HEADER or np.frombuffer(header[:4], "<f4")[0] != _MAGIC:
        raise InputError(f"{path}: no flow file, it does not begin with 202021.25; give a .flo")
    width, height = (int(n) for n in np.frombuffer(header[4:], "<i4"))
    if min(height, width) < 1 or height * width > _MOST_PIXELS:
        raise InputError(
            f"{path}: its header says {height}x{width} (height x width); copy the file again"
        )
    return height, width
