"""Images and labels from files to batches, in NumPy.

`open_data` makes a source of examples from a folder, `train_batches` and `eval_batches` make
batches (`jaxseg.types.Batch`) of it, `random_crop_flip_scale` augments on the way;
`image_views` and `pixel_views` make several views of an image, for learning without labels.
"""

import importlib.resources
import os
import pathlib
from typing import Any

from jaxseg.data.apolloscape import ApolloscapeSource
from jaxseg.data.augment import Transform, random_crop_flip_scale
from jaxseg.data.binary_input import BinaryInputSource
from jaxseg.data.bsds500 import Bsds500Source, prepare_bsds500
from jaxseg.data.camvid import CamvidSource, prepare_camvid
from jaxseg.data.cityscapes import is_download
from jaxseg.data.cityscapes_records import prepare_cityscapes
from jaxseg.data.cityscapes_source import CityscapesSource
from jaxseg.data.coco_keypoints import CocoKeypointSource
from jaxseg.data.coco_stuff import CocoStuffSource
from jaxseg.data.digits import DigitsSource, has_digits
from jaxseg.data.dots import DotsSource
from jaxseg.data.folders import FolderSource, open_folder
from jaxseg.data.geometric import RandomCrop
from jaxseg.data.grouped import GroupedSource
from jaxseg.data.images import image_size, read_image, read_labels, write_image, write_labels
from jaxseg.data.info import DatasetInfo, read_info
from jaxseg.data.instances_coco import CocoInstancesSource
from jaxseg.data.instances_voc import VocInstancesSource
from jaxseg.data.layout import splits
from jaxseg.data.photometric import ColorJitter, Grey
from jaxseg.data.pipeline import (
    BatchIterator,
    EvalBatches,
    TrainBatches,
    eval_batches,
    stack_examples,
    train_batches,
)
from jaxseg.data.potsdam import PotsdamSource
from jaxseg.data.records import records_name
from jaxseg.data.sources import Annotations, Example, Extent, MemorySource, Source
from jaxseg.data.subset import SubsetSource, hold_out
from jaxseg.data.synthetic_objects import SyntheticObjectsSource
from jaxseg.data.synthia import SynthiaSource
from jaxseg.data.tfds_images import NAMES as _TFDS_IMAGES
from jaxseg.data.tfds_images import TfdsImagesSource
from jaxseg.data.tiled import TiledSource
from jaxseg.data.turned import in_turn, random_turn
from jaxseg.data.views import (
    Compose,
    View,
    ViewsSource,
    centre,
    digit_first,
    digit_second,
    image_views,
    photo_first,
    photo_second,
    pixel_views,
)
from jaxseg.data.weighted import WeightedLabel, WeightedSource
from jaxseg.data.worm_tips import WormTipsSource
from jaxseg.types import InputError

__all__ = [
    "Annotations",
    "ApolloscapeSource",
    "BatchIterator",
    "BinaryInputSource",
    "Bsds500Source",
    "CamvidSource",
    "CityscapesSource",
    "CocoInstancesSource",
    "CocoKeypointSource",
    "CocoStuffSource",
    "ColorJitter",
    "Compose",
    "DatasetInfo",
    "DigitsSource",
    "DotsSource",
    "EvalBatches",
    "Example",
    "Extent",
    "FolderSource",
    "Grey",
    "GroupedSource",
    "MemorySource",
    "PotsdamSource",
    "RandomCrop",
    "Source",
    "SubsetSource",
    "SyntheticObjectsSource",
    "SynthiaSource",
    "TfdsImagesSource",
    "TiledSource",
    "TrainBatches",
    "Transform",
    "View",
    "ViewsSource",
    "VocInstancesSource",
    "WeightedLabel",
    "WeightedSource",
    "WormTipsSource",
    "centre",
    "digit_first",
    "digit_second",
    "eval_batches",
    "hold_out",
    "image_size",
    "image_views",
    "in_turn",
    "open_data",
    "open_folder",
    "photo_first",
    "photo_second",
    "pixel_views",
    "prepare",
    "prepare_bsds500",
    "prepare_camvid",
    "prepare_cityscapes",
    "random_crop_flip_scale",
    "random_turn",
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
) -> (
    FolderSource | Bsds500Source | CamvidSource | CityscapesSource | DigitsSource | TfdsImagesSource
):
    """Opens a folder of images, the download of Cityscapes, what `prepare` wrote, or digits.

    Args:
      path: see `open_folder`, `Bsds500Source`, `CamvidSource`, `CityscapesSource`, `DigitsSource`
        (the folder of `mnist.npz`) and `TfdsImagesSource` (the folder of a prepared version).
      split: "train", "train+val", or None for all.
      **options: those of `open_folder`; `label` of `TfdsImagesSource`.

    Returns:
      A source of examples.

    Raises:
      InputError: see `open_folder` and those sources.
    """
    if has_digits(path):
        # In memory, without annotators and instances: the others would change nothing.
        return DigitsSource(path, split, channels=options.get("channels") or "raw")
    if pathlib.Path(path, "features.json").is_file() or is_download(path):
        # RGB images, and no instances: these options would change nothing.
        used = {k: v for k, v in options.items() if k not in ("as_partition", "channels")}
        name = "cityscapes" if is_download(path) else records_name(path)
        if name in _TFDS_IMAGES:
            used = {k: v for k, v in used.items() if k != "annotations"}
            return TfdsImagesSource(
                path, name, split, channels=options.get("channels") or "raw", **used
            )
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
