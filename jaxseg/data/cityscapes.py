"""Cityscapes: its classes, and the frames of the download.

Cordts, Omran, Ramos, Rehfeld, Enzweiler, Benenson, Franke, Roth, Schiele, "The Cityscapes Dataset
for Semantic Urban Scene Understanding", CVPR 2016; 2975 / 500 / 1525 images of 1024×2048.
The download holds `leftImg8bit/SPLIT/CITY/ID_leftImg8bit.png` and
`gtFine/SPLIT/CITY/ID_gtFine_labelIds.png` with the label ids 0..33, of which 19 are evaluated. The
labels of "test" are not public: its maps mark the car and the border at most, and are not read.

What is compared with published figures, after the authors' evaluation: `metrics.confusion(19)` over
all of "val", at the size of the labels. A network that works on small images either brings its
logits to that size, as `methods.semantic` does, or its classes: `resized.at_label_size`.
"""

import contextlib
import io
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, Integer

from jaxseg.data import images, sources
from jaxseg.data.info import DatasetInfo
from jaxseg.types import InputError

SPLITS = ("train", "val", "test")
CLASSES: dict[str, tuple[int, int, int]] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
"""Name -> colour of the classes that are evaluated, in the order of their train ids."""
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of each class: what results for the authors' server are written in."""
INFO = DatasetInfo(
    name="Cityscapes",
    kind="classes",
    layout="folders",
    classes=tuple(CLASSES),
    class_ids=LABEL_IDS,
    colors=tuple(CLASSES.values()),
)

Encoding = Literal["labelIds", "labelTrainIds"]
_UNKNOWN = -2


def _table(ignored: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    # One entry more, for what does not fit into 8 bits.
    table = np.full(257, _UNKNOWN, np.int32)
    table[list(ignored)] = -1
    table[list(ids)] = np.arange(len(ids))
    return table


# A licence plate has the id -1 and is not drawn, so that 255 stands in no map of label ids.
_TABLES = {
    "labelIds": _table(range(34), LABEL_IDS),
    "labelTrainIds": _table([255], range(len(CLASSES))),
}
_KNOWN = {
    "labelIds": "label ids, 0 to 33; copy the download again, and name train ids *_labelTrainIds",
    "labelTrainIds": "train ids, 0 to 18 and 255; make the map again of *_labelIds",
}


def train_ids(
    ids: Integer[np.ndarray, "h w"], name: str, *, encoding: Encoding = "labelIds"
) -> Int32[np.ndarray, "h w"]:
    """Classes 0..18, and -1 where the evaluation does not look.

    Args:
      ids: values of a file.
      name: the file, for errors.
      encoding: "labelIds": 0..33; "labelTrainIds": 0..18 and 255, as the authors' scripts make it.

    Raises:
      InputError: another value.
    """
    values = np.where((ids < 0) | (ids > 255), 256, ids)
    result = _TABLES[encoding][values]
    if (result == _UNKNOWN).any():
        wrong, counts = np.unique(ids[result == _UNKNOWN], return_counts=True)
        listed = ", ".join(f"{v} ({n} pixels)" for v, n in zip(wrong[:5], counts, strict=False))
        more = ", ..." if len(wrong) > 5 else ""
        raise InputError(f"{name}: values {listed}{more} are no {_KNOWN[encoding]}")
    return result


class Files(NamedTuple):
    """An image and its label map, encoded."""

    image: pathlib.Path | io.BytesIO
    label: pathlib.Path | io.BytesIO | None
    name: str | None = None
    """What errors call them; None: their paths."""


def read_label(files: Files, size: tuple[int, int]) -> Int32[np.ndarray, "h w"]:
    """Reads and checks the classes of an image of this height and width; -1 is ignored.

    Raises:
      InputError: there is no label map, or it is damaged or a colour picture, has another size, or
        other values.
    """
    if files.label is None:
        raise InputError(f"{files.name or files.image}: has no label; choose train or val")
    name = files.name or str(files.label)
    stored = images.read_labels(files.label, name=name, colors=INFO.colors)
    sources.check_sizes({"id": name, "image": np.empty((*size, 0)), "label": stored})
    encoding: Encoding = "labelTrainIds" if name.endswith("_labelTrainIds.png") else "labelIds"
    return train_ids(stored, name, encoding=encoding)


def is_download(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is laid out as the download is."""
    return pathlib.Path(path, "leftImg8bit").is_dir()


def find_frames(folder: pathlib.Path, split: str) -> dict[str, Files]:
    """The frames of a split of the download by rising id, such as "bonn_000001_000019".

    Label ids go before train ids where both are there.

    Raises:
      InputError: there is no image, or one has no labels; those of "test" are not looked for.
    """
    where, kind = folder / "leftImg8bit" / split, "_leftImg8bit.png"
    # Copies from a Mac hold ._NAME beside each NAME.
    paths = [p for p in where.glob(f"*/*{kind}") if not p.name.startswith(".")]
    if not paths:
        raise InputError(f"{where}: no CITY/*{kind}; unpack leftImg8bit_trainvaltest.zip again")
    frames = {}
    for path in sorted(paths, key=lambda path: path.name):
        name = path.name.removesuffix(kind)
        beside = folder / "gtFine" / split / path.parent.name
        maps = [beside / f"{name}_gtFine_{encoding}.png" for encoding in _TABLES]
        label = None if split == "test" else next((p for p in maps if p.is_file()), maps[0])
        if label is not None and not label.is_file():
            raise InputError(
                f"{path}: no label {label}; unpack gtFine_trainvaltest.zip beside leftImg8bit"
            )
        frames[name] = Files(path, label)
    return frames


def choose_splits(path: Any, there: Sequence[str], split: str | None) -> tuple[str, ...]:
    """The splits that are asked for, of those that are there; None: those with labels.

    Raises:
      InputError: there is no such split, or it is "test" together with others.
    """
    labelled = tuple(name for name in there if name != "test")
    names = tuple(dict.fromkeys(split.split("+"))) if split else labelled or tuple(there)
    for wanted in names:
        if wanted not in there:
            raise InputError(f"{path}: no split {wanted!r}; there are {', '.join(there)}")
    if "test" in names and len(names) > 1:
        raise InputError(f"{path}: test has no labels, unlike {labelled[0]}; open the two apart")
    return names


def find_splits(folder: pathlib.Path) -> tuple[str, ...]:
    """The splits whose images were downloaded.

    Raises:
      InputError: there are none.
    """
    there = tuple(split for split in SPLITS if (folder / "leftImg8bit" / split).is_dir())
    if not there:
        raise InputError(
            f"{folder}: no leftImg8bit/train, val or test; give the folder of both zips"
        )
    return there


class Download:
    """The frames of some splits of the download; see `cityscapes_source.CityscapesSource`."""

    def __init__(self, folder: pathlib.Path, split: str | None):
        self.splits = choose_splits(folder, find_splits(folder), split)
        frames = [found for name in self.splits for found in find_frames(folder, name).items()]
        self.ids = tuple(name for name, _ in frames)
        self._frames = tuple(files for _, files in frames)

    def files(self, i: int) -> Files:
        """The files of a frame."""
        return self._frames[i]

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of an image, from its header."""
        return _header_size(self._frames[i].image)


def _header_size(path: Any) -> tuple[int, int]:
    # `image_size` decodes a PNG whole, for EXIF may stand at its end. Here is none.
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(24)
        if len(head) == 24 and head.startswith(b"\x89PNG\r\n\x1a\n"):
            return int.from_bytes(head[20:], "big"), int.from_bytes(head[16:20], "big")
    return images.image_size(path)
