"""Potsdam: aerial images with near infrared, in six classes of land cover or three groups of them.

ISPRS 2D Semantic Labeling Contest, Potsdam (Rottensteiner et al., ISPRS Annals 2012): 38 tiles of
6000×6000 pixels of 5 cm. Of the release are read `4_Ortho_RGBIR/top_potsdam_R_C_RGBIR.tif`, of 8
bits and 4 bands, and `5_Labels_for_participants/top_potsdam_R_C_label.tif` in six colours, for 24
of the tiles.

Prepared as for IIC (Ji, Henriques, Vedaldi, ICCV 2019): at half scale, cut into 15×15 patches of
200×200, 8550 in all, of which 5400 have labels. Its 855 test patches were drawn without a seed from
all labelled tiles, and their neighbours were trained on; here the test patches are the 900 of four
tiles. That changes nothing where one learns and is scored on all labelled patches. Some leave tile
7_10 out for errors in its labels; as for IIC it stays.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from jaxseg.data import sources
from jaxseg.data.info import DatasetInfo
from jaxseg.data.potsdam_tiles import CLASSES, HalfScaleTiles, find_tiles
from jaxseg.types import InputError

LABELLED_TILES = (
    *("2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11"),
    *("5_12", "6_7", "6_8", "6_9", "6_10", "6_11", "6_12", "7_7", "7_8", "7_9", "7_10", "7_11"),
    "7_12",
)
"""The tiles whose labels came with the contest, "row_column"."""
UNLABELLED_TILES = (
    *("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13"),
    *("6_14", "6_15", "7_13"),
)
"""The tiles of the contest's test; labels that came later are not read."""
TEST_TILES = ("2_11", "4_10", "5_11", "7_8")
"""Apart from one another; four of the seven labelled tiles that others keep for validation (2_11,
2_12, 4_10, 5_11, 6_7, 7_8, 7_10)."""
GROUPS = {
    "road and car": ("impervious surfaces", "car"),
    "building and clutter": ("building", "clutter"),
    "vegetation and tree": ("low vegetation", "tree"),
}
"""The classes of each of the three groups."""
SPLITS = ("train", "test", "unlabelled")


def _tables(classes: int) -> tuple[DatasetInfo, np.ndarray]:
    """What the classes are, and the class of each of the six."""
    groups = GROUPS if classes == 3 else {name: (name,) for name in CLASSES}
    names = list(CLASSES)
    table = np.empty(len(names), np.int32)
    for i, members in enumerate(groups.values()):
        table[[names.index(name) for name in members]] = i
    info = DatasetInfo(
        name=f"Potsdam-{classes}",
        kind="classes",
        channels="rgb+nir",
        classes=tuple(groups),
        class_ids=tuple(range(classes)),
        colors=tuple(CLASSES[members[0]] for members in groups.values()),
    )
    return info, table


class PotsdamSource:
    """Patches of Potsdam as a source of examples; see `sources.Source`.

    An example is {"image" `[200, 200, 4]` uint8: red, green, blue, near infrared; "label"
    `[200, 200]` int32, -1 all over where there are no labels; "id", such as
    "top_potsdam_2_10_03_14": patch 14 of row 3 of tile 2_10}. Tile by tile, row by row.

    The first example of a tile reads the whole tile, in seconds, and keeps it on the disk at half
    scale: 36 MB for the bands, 9 MB for the labels, 1.6 GB for all. Examples are cut out of that;
    no tile stays in memory.

    Args:
      path: the folder of the release; tiles and labels lie in it or in the folders in it.
      split: "train" (20 tiles), "test" (4), "unlabelled" (14), several joined by "+" (IIC learns
        from all three), or None for "train+test". All tiles of a split must be there.
      classes: 6, or 3: `GROUPS`.
      test_tiles: which of `LABELLED_TILES` are "test".
      patch_size: height and width of a patch at half scale; what is left of a tile is left out.
      tile_size: height and width of a tile's file.
      cache_dir: where tiles are kept at half scale; None: the folder `half_scale` in `path`.

    Raises:
      InputError: a split does not exist, or a tile or its label is missing; where an example is
        read: a file is damaged, of another size or other bands or colours, or the tile cannot be
        kept.
      ValueError: there is no such number of classes, a test tile has no labels, a size does not
        fit.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        *,
        classes: int = 3,
        test_tiles: Sequence[str] = TEST_TILES,
        patch_size: int = 200,
        tile_size: int = 6000,
        cache_dir: str | os.PathLike[str] | None = None,
    ):
        if classes not in (3, 6):
            raise ValueError(f"classes is {classes}; expected 3 or 6")
        if unknown := sorted(set(test_tiles) - set(LABELLED_TILES)):
            raise ValueError(f"test_tiles has {unknown[0]!r}; expected names of LABELLED_TILES")
        if tile_size % 2 or not 1 <= patch_size <= tile_size // 2:
            raise ValueError(
                f"patch_size is {patch_size}, tile_size {tile_size}; expected an even tile_size of "
                "at least twice patch_size"
            )
        folder = pathlib.Path(path)
        tiles = _choose(folder, split, test_tiles)
        files = find_tiles(folder, {tile: tile in LABELLED_TILES for tile in tiles})
        kept = pathlib.Path(cache_dir or folder / "half_scale")
        self._tiles = HalfScaleTiles(files, kept, tile_size)
        self.info, self._table = _tables(classes)
        self._size = patch_size
        count = tile_size // 2 // patch_size
        self._patches = [(t, r, c) for t in tiles for r in range(count) for c in range(count)]
        self.ids = tuple(f"top_potsdam_{t}_{r:02}_{c:02}" for t, r, c in self._patches)

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Cuts out an example."""
        i = range(len(self))[index]
        tile, *place = self._patches[i]
        window = tuple(slice(p * self._size, (p + 1) * self._size) for p in place)
        image = np.array(self._tiles.image(tile)[window])
        classes = self._tiles.label(tile)
        label = np.full(image.shape[:2], -1, np.int32)
        if classes is not None:
            label = self._table[classes[window]]
        return {"image": image, "label": label, "id": self.ids[i]}

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """The size that all have."""
        return sources.Extent(self._size, self._size, 0)


def _choose(folder: pathlib.Path, split: str | None, test_tiles: Sequence[str]) -> list[str]:
    parts = {
        "train": [tile for tile in LABELLED_TILES if tile not in test_tiles],
        "test": [tile for tile in LABELLED_TILES if tile in test_tiles],
        "unlabelled": list(UNLABELLED_TILES),
    }
    chosen = []
    for name in dict.fromkeys((split or "train+test").split("+")):
        if name not in parts:
            raise InputError(f"{folder}: no split {name!r}; there are {', '.join(SPLITS)}")
        chosen += parts[name]
    return chosen
