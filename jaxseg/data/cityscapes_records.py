"""Cityscapes as a TensorFlow data set, written and read without TensorFlow.

Features bear the names of TFDS's own `cityscapes/semantic_segmentation`: what that builder wrote
in ArrayRecord files elsewhere is read here too.
"""

import functools
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxseg.data import images
from jaxseg.data.cityscapes import (
    LABEL_IDS,
    SPLITS,
    Files,
    choose_splits,
    find_frames,
    find_splits,
    read_label,
)
from jaxseg.data.records import import_tfds, open_records, write_records
from jaxseg.types import InputError


@functools.cache
def _builder_class() -> Any:
    tfds = import_tfds()

    # Not registered: TFDS has one of this name, which a program may want beside it.
    class Cityscapes(
        tfds.core.GeneratorBasedBuilder,
        skip_registration=True,  # type: ignore[call-arg]
    ):
        """One record per image: the bytes of its PNG, and of that of its label ids."""

        VERSION = tfds.core.Version("1.0.0")
        # Nothing is downloaded; to look for checksums TFDS would need importlib_resources.
        code_path = None

        def __init__(
            self, *, frames: dict[str, dict[str, Files]], size: tuple[int, int], **options: Any
        ):
            self._frames, self._size = frames, size
            super().__init__(**options)

        def _info(self) -> Any:
            picture = functools.partial(tfds.features.Image, encoding_format="png")
            return tfds.core.DatasetInfo(
                builder=self,
                description=__doc__,
                features=tfds.features.FeaturesDict(
                    {
                        "image_id": tfds.features.Text(),
                        "image_left": picture(shape=(*self._size, 3)),
                        "segmentation_label": picture(shape=(*self._size, 1)),
                    }
                ),
            )

        def _split_generators(self, download_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(split) for split in self._frames}

        def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
            for name, files in self._frames[split].items():
                found = images.read_image(files.image).shape[:2]
                if found != self._size:
                    raise InputError(
                        f"{files.image}: {found[0]}x{found[1]}, other images "
                        f"{self._size[0]}x{self._size[1]} (height x width); bring them to one size"
                    )
                record = {"image_id": name, "image_left": str(files.image)}
                yield name, {**record, "segmentation_label": _encoded(files, found)}

    return Cityscapes


def _encoded(files: Files, size: tuple[int, int]) -> str | io.BytesIO:
    """Label ids as PNG; nothing but 0, "unlabeled", where there are none."""
    from PIL import Image

    label = read_label(files, size) if files.label else np.full(size, -1)
    if str(files.label).endswith("_labelIds.png"):
        return str(files.label)
    file = io.BytesIO()
    # The last entry is that of -1.
    Image.fromarray(np.array([*LABEL_IDS, 0], np.uint8)[label]).save(file, format="PNG")
    file.seek(0)
    return file


def prepare_cityscapes(
    source_dir: str | os.PathLike[str], data_dir: str | os.PathLike[str]
) -> pathlib.Path:
    """Converts the download to ArrayRecord files under `data_dir`; it can also be used as it is.

    Args:
      source_dir: the folder of `leftImg8bit` and `gtFine`.
      data_dir: where data sets are kept; `cityscapes/1.0.0` is made in it. What is already there
        stays.

    Returns:
      The folder that was written, to be read by `CityscapesSource`.

    Raises:
      InputError: the download is not complete, or nothing can be written.
    """
    folder = pathlib.Path(source_dir)
    frames = {split: find_frames(folder, split) for split in find_splits(folder)}
    first = next(iter(next(iter(frames.values())).values()))
    size = images.read_image(first.image).shape[:2]
    return write_records(_builder_class(), data_dir, frames=frames, size=size)


class Records:
    """The frames of some splits, in the order in which they are stored."""

    def __init__(self, path: str | os.PathLike[str], split: str | None):
        opened = dict(open_records(path, None, "cityscapes"))
        found = {{"validation": "val"}.get(name, name): records for name, records in opened.items()}
        self._features = next(iter(found.values())).dataset_info.features
        if "train_extra" in found or "segmentation_label" not in self._features:
            raise InputError(
                f"{path}: holds no fine labels; write the config semantic_segmentation"
            )
        self.splits = choose_splits(path, [name for name in SPLITS if name in found], split)
        self._places = [(found[name], i) for name in self.splits for i in range(len(found[name]))]
        self._names: dict[int, str] = {}
        self.ids = _RecordIds(self._places, self._names)

    def files(self, i: int) -> Files:
        """The files of a frame, in memory."""
        records, place = self._places[i]
        record = records[place]
        image, label = (io.BytesIO(record[key]) for key in ("image_left", "segmentation_label"))
        self._names[i] = record["image_id"].decode()
        return Files(image, label, self._names[i])

    def size(self, i: int) -> tuple[int, int]:
        """Height and width that all images have."""
        height, width, _ = self._features["image_left"].shape
        return height, width


class _RecordIds(Sequence[str]):
    """Names, each read when it is asked for: the list of all would cost reading all images."""

    def __init__(self, places: Sequence[tuple[Any, int]], known: dict[int, str]):
        self._places = places
        self._known = known

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        i = range(len(self))[index]
        if i not in self._known:
            records, place = self._places[i]
            self._known[i] = records[place]["image_id"].decode()
        return self._known[i]
