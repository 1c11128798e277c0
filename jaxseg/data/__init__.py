"""Images and labels from files to batches, in NumPy.

`open_data` makes a source of examples from a folder, `train_batches` and `eval_batches` make
batches (`jaxseg.types.Batch`) of it, `random_crop_flip_scale` augments on the way.
"""

import importlib.resources
import os
import pathlib
from typing import Any

from jaxseg.data.augment import Transform, random_crop_flip_scale
from jaxseg.data.bsds500 import Bsds500Source, prepare_bsds500
from jaxseg.data.camvid import CamvidSource, prepare_camvid
from jaxseg.data.cityscapes import is_download
from jaxseg.data.cityscapes_records import prepare_cityscapes
from jaxseg.data.cityscapes_source import CityscapesSource
from jaxseg.data.coco_keypoints import CocoKeypointSource
from jaxseg.data.folders import FolderSource, open_folder
from jaxseg.data.images import image_size, read_image, read_labels, write_image, write_labels
from jaxseg.data.info import DatasetInfo, read_info
from jaxseg.data.layout import splits
from jaxseg.data.pipeline import (
    BatchIterator,
    EvalBatches,
    TrainBatches,
    eval_batches,
    stack_examples,
    train_batches,
)
from jaxseg.data.records import records_name
from jaxseg.data.sources import Annotations, Example, Extent, MemorySource, Source
from jaxseg.data.weighted import WeightedLabel, WeightedSource
from jaxseg.data.worm_tips import WormTipsSource
from jaxseg.types import InputError

__all__ = [
    "Annotations",
    "BatchIterator",
    "Bsds500Source",
    "CamvidSource",
    "CityscapesSource",
    "CocoKeypointSource",
    "DatasetInfo",
    "EvalBatches",
    "Example",
    "Extent",
    "FolderSource",
    "MemorySource",
    "Source",
    "TrainBatches",
    "Transform",
    "WeightedLabel",
    "WeightedSource",
    "WormTipsSource",
    "eval_batches",
    "image_size",
    "open_data",
    "open_folder",
    "prepare",
    "prepare_bsds500",
    "prepare_camvid",
    "prepare_cityscapes",
    "random_crop_flip_scale",
    "read_image",
    "read_info",
    "read_labels",
    "samples_path",
    "splits",
    "stack_examples",
    "train_batches",
    "write_image",
    "write_labels",
]


def samples_path() -> pathlib.Path:
    """The sample set that comes with jaxseg: CC0 nuclei with instances, `photos` beside them.

    A folder for `open_folder`, with the splits "train" (30 images) and "test" (10); the folder
    `photos` in it holds 3 photographs without labels.
    """
    return pathlib.Path(str(importlib.resources.files("jaxseg.data") / "samples"))


def open_data(
    path: str | os.PathLike[str], split: str | None = None, **options: Any
) -> FolderSource | Bsds500Source | CamvidSource | CityscapesSource:
    """Opens a folder of images, the download of Cityscapes, or what `prepare` wrote.

    Args:
      path: see `open_folder`, `Bsds500Source`, `CamvidSource` and `CityscapesSource`.
      split: "train", "train+val", or None for all.
      **options: those of `open_folder`.

    Returns:
      A source of examples.

    Raises:
      InputError: see `open_folder`, `Bsds500Source`, `CamvidSource` and `CityscapesSource`.
    """
    if pathlib.Path(path, "features.json").is_file() or is_download(path):
        # RGB images, and no instances: these options would change nothing.
        used = {k: v for k, v in options.items() if k not in ("as_partition", "channels")}
        name = "cityscapes" if is_download(path) else records_name(path)
        if name == "cityscapes":
            return CityscapesSource(path, split, **used)
        source = CamvidSource if name == "camvid" else Bsds500Source
        return source(path, split, **used)
    return open_folder(path, split, **options)


def prepare(
    name: str, source_dir: str | os.PathLike[str], data_dir: str | os.PathLike[str]
) -> pathlib.Path:
    """Converts the official release of a data set: `jaxseg data prepare NAME --source DIR`.

    Args:
      name: "bsds500", "camvid" or "cityscapes".
      source_dir: the release.
      data_dir: where converted data sets are kept.

    Returns:
      The folder that was written, for `open_data`.

    Raises:
      InputError: the name is not known, the release is not complete, or nothing can be written.
    """
    converters = {
        "bsds500": prepare_bsds500,
        "camvid": prepare_camvid,
        "cityscapes": prepare_cityscapes,
    }
    if name not in converters:
        known = ", ".join(converters)
        raise InputError(f"no converter for {name!r}; there is one for {known}")
    return converters[name](source_dir, data_dir)
