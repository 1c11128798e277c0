"""The tiles of Potsdam at half scale: read from TIFF once, then from the disk in windows."""

import contextlib
import functools
import pathlib
import struct
import threading
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxseg.data import images
from jaxseg.data.files import write_file
from jaxseg.types import InputError

CLASSES: dict[str, tuple[int, int, int]] = {
    "impervious surfaces": (255, 255, 255),
    "building": (0, 0, 255),
    "low vegetation": (0, 255, 255),
    "tree": (0, 255, 0),
    "car": (255, 255, 0),
    "clutter": (255, 0, 0),
}
"""Name -> colour in the label files, in the order of the class indices."""

_TOLERANCE = 32
_ROWS = 500
_Read = Callable[[pathlib.Path], np.ndarray]
_Shrink = Callable[[np.ndarray], np.ndarray]
# What the TIFF reader and its decoders raise.
_DAMAGED = (OSError, ValueError, LookupError, TypeError, MemoryError, struct.error, zlib.error)


class Files(NamedTuple):
    """A tile's bands, and its classes in colours."""

    image: pathlib.Path
    label: pathlib.Path | None


def find_tiles(folder: pathlib.Path, tiles: Mapping[str, bool]) -> dict[str, Files]:
    """The files of tiles, in the folder or the folders in it.

    Args:
      folder: such as that of `4_Ortho_RGBIR` and `5_Labels_for_participants`.
      tiles: names such as "2_10", and whether the label is wanted.

    Raises:
      InputError: one is missing.
    """
    # The first by name, where there are several: the labels of 5_Labels_all are the same.
    there: dict[str, pathlib.Path] = {}
    for path in sorted([*folder.glob("*.tif"), *folder.glob("*/*.tif")]):
        there.setdefault(path.name, path)

    def find(name: str, archive: str) -> pathlib.Path:
        if name not in there:
            raise InputError(f"{folder}: no {name} in it or its folders; unpack {archive} again")
        return there[name]

    return {
        tile: Files(
            find(f"top_potsdam_{tile}_RGBIR.tif", "4_Ortho_RGBIR.zip"),
            find(f"top_potsdam_{tile}_label.tif", "5_Labels_for_participants.zip")
            if labelled
            else None,
        )
        for tile, labelled in tiles.items()
    }


def read_bands(path: pathlib.Path) -> UInt8[np.ndarray, "h w 4"]:
    """Red, green, blue and near infrared of a TIFF.

    Raises:
      InputError: the file is missing, damaged, compressed in a way that is not known, or of other
        bands.
    """
    from skimage import io

    try:
        # Pillow takes a fourth band for transparency, and leaves it out of some files.
        bands = io.imread(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: not readable ({reason}); copy it again, or save it uncompressed"
        ) from None
    if bands.dtype != np.uint8 or bands.ndim != 3 or bands.shape[2] != 4:
        found = f"{'x'.join(map(str, bands.shape))} of {bands.dtype}"
        raise InputError(f"{path}: {found}, not 4 bands of 8 bits; unpack 4_Ortho_RGBIR.zip again")
    return bands


def half_scale(bands: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "rows cols c"]:
    """The mean of each 2×2 pixels, halves rounded up; of an even height and width."""
    result = np.empty((bands.shape[0] // 2, bands.shape[1] // 2, bands.shape[2]), np.uint8)
    for start in range(0, len(result), _ROWS):
        rows = bands[2 * start : 2 * (start + _ROWS)].astype(np.uint16)
        pairs = rows[::2] + rows[1::2]
        result[start : start + _ROWS] = (pairs[:, ::2] + pairs[:, 1::2] + 2) >> 2
    return result


def class_indices(colors: UInt8[np.ndarray, "h w 3"], name: str) -> UInt8[np.ndarray, "h w"]:
    """Class indices 0..5 of a label map's colours.

    A colour counts as that of a class from which no channel is more than 32 away.

    Args:
      colors: of a file.
      name: the file, for errors.

    Raises:
      InputError: there are other colours.
    """
    bright = colors > 127
    table = np.full(8, len(CLASSES), np.uint8)
    table[_code(np.array(list(CLASSES.values())) > 127)] = np.arange(len(CLASSES))
    classes = table[_code(bright)]
    far = (np.where(bright, 255 - colors, colors) > _TOLERANCE).any(axis=2)
    if (wrong := far | (classes == len(CLASSES))).any():
        found = ", ".join(map(str, colors[wrong][0]))
        raise InputError(
            f"{name}: {wrong.sum()} pixels of no class' colour, the first of ({found}); take the "
            "labels without marked boundaries, 5_Labels_for_participants.zip"
        )
    return classes


def _code(bright: np.ndarray) -> np.ndarray:
    return bright @ np.array([4, 2, 1], np.uint8)


class HalfScaleTiles:
    """Tiles at half scale, kept as `.npy` files that are read in windows.

    The first use of a tile reads its TIFF whole, one tile at a time, and writes the smaller file;
    it is written again where the TIFF is newer. Safe to use from several threads.

    Args:
      files: by the name of the tile.
      folder: where the `.npy` files are kept; made if it is not there.
      size: height and width of a TIFF; even.
    """

    def __init__(self, files: Mapping[str, Files], folder: pathlib.Path, size: int):
        self._files, self._folder, self._size = files, folder, size
        self._open: dict[pathlib.Path, np.ndarray] = {}
        self._lock = threading.Lock()

    def image(self, tile: str) -> UInt8[np.ndarray, "h w 4"]:
        """The bands of a tile, each pixel the mean of four; not in memory.

        Raises:
          InputError: see `read_bands`; the tile is of another size, or nothing can be written.
        """
        return self._mapped(self._files[tile].image, read_bands, half_scale)

    def label(self, tile: str) -> UInt8[np.ndarray, "h w"] | None:
        """The classes 0..5 of a tile, each that of the upper left of four pixels; not in memory.

        Raises:
          InputError: see `class_indices`; the file is damaged, the tile is of another size, or
            nothing can be written.
        """
        path = self._files[tile].label
        if path is None:
            return None
        shrink = functools.partial(_upper_left, name=str(path))
        return self._mapped(path, images.read_image, shrink)

    def _mapped(self, path: pathlib.Path, read: _Read, shrink: _Shrink) -> np.ndarray:
        with self._lock:
            if path not in self._open:
                self._open[path] = self._kept(path, read, shrink)
            return self._open[path]

    def _kept(self, path: pathlib.Path, read: _Read, shrink: _Shrink) -> np.ndarray:
        kept = self._folder / f"{path.stem}.npy"
        half = (self._size // 2, self._size // 2)
        # Missing or damaged: written anew.
        with contextlib.suppress(OSError, ValueError, EOFError):
            array = np.load(kept, mmap_mode="r")
            if kept.stat().st_mtime >= path.stat().st_mtime and array.shape[:2] == half:
                return array
        whole = read(path)
        if whole.shape[:2] != (self._size, self._size):
            raise InputError(
                f"{path}: {whole.shape[0]}x{whole.shape[1]}, expected {self._size}x{self._size} "
                "(height x width); unpack the release again"
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self._folder}: not made ({error.strerror}); name another cache_dir"
            ) from None
        array = shrink(whole)
        write_file(kept, lambda file: np.save(file, array))
        return np.load(kept, mmap_mode="r")


def _upper_left(colors: np.ndarray, name: str) -> np.ndarray:
    return class_indices(colors[::2, ::2], name)
