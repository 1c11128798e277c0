"""COCO's objects, from the public `instances_*.json` to arrays (Lin et al., ECCV 2014)."""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxseg.data.rle import decode_rle, fill_polygons
from jaxseg.types import InputError


class Thing(NamedTuple):
    """An annotated object."""

    id: int
    kind: int
    """Place of its category among all, by rising number."""
    crowd: bool
    """A group that was not told apart."""
    segmentation: Any
    """As in the file: polygons, or run lengths."""


class Photo(NamedTuple):
    """An image and its objects."""

    name: str
    height: int
    width: int
    things: tuple[Thing, ...]


class Objects(NamedTuple):
    """What an annotation file says."""

    photos: dict[int, Photo]
    """By id, in the order of the file."""
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    """COCO's number of each category; 1 to 90 with gaps."""


def read_objects(path: str | os.PathLike[str]) -> Objects:
    """Reads an `instances_*.json`.

    Raises:
      InputError: the file is missing, no JSON, damaged, or holds no segmentations.
    """
    content = _read_json(path)
    wanted = {"images", "annotations", "categories"}
    if not isinstance(content, dict) or not wanted <= content.keys():
        raise InputError(
            f"{path}: no images, annotations and categories in it; give COCO's instances_*.json"
        )
    entry: Any = None
    try:
        categories = sorted((int(c["id"]), str(c["name"])) for c in content["categories"])
        numbers = {number: k for k, (number, _) in enumerate(categories)}
        things: dict[int, list[Thing]] = {}
        for entry in content["images"]:
            things[int(entry["id"])] = []
        for entry in content["annotations"]:
            kind = numbers[int(entry["category_id"])]
            crowd, drawn = bool(entry.get("iscrowd", 0)), entry["segmentation"]
            things[int(entry["image_id"])].append(Thing(int(entry["id"]), kind, crowd, drawn))
        photos = {}
        for entry in content["images"]:
            name, height, width = str(entry["file_name"]), int(entry["height"]), int(entry["width"])
            photos[int(entry["id"])] = Photo(name, height, width, tuple(things[int(entry["id"])]))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        number = entry.get("id", "without an id") if isinstance(entry, dict) else entry
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(
            f"{path}: entry {number} is damaged ({reason[:80]}); copy the file again"
        ) from None
    return Objects(photos, tuple(name for _, name in categories), tuple(i for i, _ in categories))


def draw_thing(thing: Thing, photo: Photo, path: object) -> Bool[np.ndarray, "h w"]:
    """The mask of an object; pixels are those that cocoapi gives it.

    Args:
      thing: of the photo.
      photo: whose size it has.
      path: the file, for errors.

    Raises:
      InputError: its segmentation is damaged.
    """
    size, drawn = (photo.height, photo.width), thing.segmentation
    try:
        if not isinstance(drawn, Mapping):
            return fill_polygons(drawn, size)
        if tuple(int(n) for n in drawn["size"]) != size:
            raise ValueError(f"a mask of {drawn['size']} in an image of {list(size)}")
        return decode_rle(drawn["counts"], size)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: annotation {thing.id} is damaged ({reason[:100]}); copy the file again"
        ) from None


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: no JSON ({reason}); copy the file again") from None
