"""ApolloScape's scene parsing: street scenes of 2710×3384 pixels in 22 classes.

Huang et al., "The ApolloScape Dataset for Autonomous Driving", CVPR workshops 2018. The release
holds, road by road, `roadNN_ins/ColorImage/RecordNNN/Camera N/NAME.jpg` and, with `Label` in place
of `ColorImage`, `NAME_bin.png` with ids 0..255; and `public_image_lists/roadNN_ins_SPLIT.lst`,
lines of an image and its label map with a tab between, relative to the folder of the roads.

The classes are those that the authors evaluate, in the order of Marin et al.'s Table 2 (ICCV 2019),
whose last eight are their targets. A group of objects has the class of one, as in the authors'
table of train ids. Bridges, tunnels and overpasses, the recording car and what is unlabelled are
ignored, as there.
"""

import os
import pathlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int32

from jaxseg.data import images
from jaxseg.data.info import DatasetInfo
from jaxseg.data.pairs import Pair, PairsSource, choose_splits, map_ids
from jaxseg.types import InputError

CLASSES: dict[str, tuple[int, int]] = {
    "road": (49, 0xC080C0),
    "sidewalk": (50, 0xC08040),
    "traffic cone": (65, 0x000040),
    "road pile": (66, 0x0000C0),
    "fence": (67, 0x404080),
    "traffic light": (81, 0xC04080),
    "pole": (82, 0xC08080),
    "traffic sign": (83, 0x004040),
    "wall": (84, 0xC0C080),
    "dustbin": (85, 0x4000C0),
    "billboard": (86, 0xC000C0),
    "building": (97, 0xC00080),
    "vegetation": (113, 0x808040),
    "sky": (17, 0x4682B4),
    "car": (33, 0x00008E),
    "motorbicycle": (34, 0x0000E6),
    "bicycle": (35, 0x770B20),
    "person": (36, 0x0080C0),
    "rider": (37, 0x804080),
    "truck": (38, 0x8000C0),
    "bus": (39, 0xC00040),
    "tricycle": (40, 0x8080C0),
}
"""Name -> id in the label maps and colour, 0xRRGGBB."""
TARGETS = tuple(range(14, 22))
"""The target classes of Marin et al."""
GROUPS = 128
"""A group of what has the id i, 33..40, has the id i + 128."""
IGNORED = (0, 1, 98, 99, 100, 255)
INFO = DatasetInfo(
    name="ApolloScape",
    kind="classes",
    layout="lists",
    classes=tuple(CLASSES),
    class_ids=tuple(number for number, _ in CLASSES.values()),
    colors=tuple((c >> 16, c >> 8 & 255, c & 255) for _, c in CLASSES.values()),
)
_IDS = tuple((n, n + GROUPS) if 33 <= n <= 40 else (n,) for n in INFO.class_ids)


def read_label(path: pathlib.Path) -> Int32[np.ndarray, "h w"]:
    """Reads and checks a label map.

    Raises:
      InputError: the file is damaged or a colour picture, or holds other values.
    """
    return map_ids(images.read_labels(path, colors=INFO.colors), _IDS, IGNORED, str(path))


class ApolloscapeSource(PairsSource):
    """ApolloScape as a source of the examples that `folders.open_folder` gives.

    Roads whose folder is not there are left out, so that one that was downloaded is enough.

    Args:
      path: the folder of the roads; the lists lie in it or in `public_image_lists`.
      split: "train", "val", both joined by "+", or None for those that are listed.
      cache_bytes: see `folders.open_folder`.

    Raises:
      InputError: there are no lists or no roads, a listed file is missing, or the split does not
        exist; where an example is read: a file is damaged, of another size than its image, or of
        other ids.
    """

    def __init__(
        self, path: str | os.PathLike[str], split: str | None = None, *, cache_bytes: int = 0
    ):
        folder = pathlib.Path(path)
        lists = _find_lists(folder)
        names = choose_splits(folder, tuple(lists), split)
        pairs = [p for name in names for file in lists[name] for p in _listed(folder, file)]
        if not pairs:
            raise InputError(f"{folder}: no folder of a listed road; unpack roadNN_ins there")
        super().__init__(pairs, INFO, read_label, cache_bytes=cache_bytes)


def _find_lists(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """The lists of each split, by road. Those of "test" name no labels."""
    found: dict[str, list[pathlib.Path]] = {}
    for place in (folder, folder / "public_image_lists"):
        for name in ("train", "val"):
            files = sorted(place.glob(f"road*_{name}.lst"))
            if files and name not in found:
                found[name] = files
    if not found:
        raise InputError(f"{folder}: no public_image_lists/road*_train.lst; copy the release again")
    return found


def _listed(folder: pathlib.Path, file: pathlib.Path) -> Iterator[Pair]:
    """The pairs of a list, by rising name; none where the road is not there."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not readable ({error}); copy the release again") from None
    there: dict[pathlib.Path, set[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        words = line.strip().split("\t")
        if len(words) != 2:
            raise InputError(f"{file}: line {number} is no image and label with a tab between")
        road = pathlib.PurePosixPath(words[0]).parts[0]
        if not (folder / road).is_dir():
            continue
        image, label = (folder / word for word in words)
        for path in (image, label):
            # A folder at a time: there are a hundred thousand files.
            if path.parent not in there:
                there[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
            if path.name not in there[path.parent]:
                raise InputError(f"{file}: line {number}: no {path}; unpack {road} again")
        yield Pair(f"{road}_{image.stem}", image, label)
