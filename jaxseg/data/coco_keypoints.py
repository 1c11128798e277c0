"""COCO's people as examples of one person each, for learning to find their keypoints.

The public layout is read as it is: `annotations/person_keypoints_{train,val}2017.json` and the
images in `{train,val}2017/`, or in `images/{train,val}2017/`.
"""

import operator
import os
import pathlib
from typing import Any, SupportsIndex

import numpy as np

from jaxseg.data import images, sources
from jaxseg.data.cache import DecodeCache
from jaxseg.data.coco_people import KEYPOINTS, People, Photo, read_boxes, read_people
from jaxseg.data.person_crops import SIZE, crop_person
from jaxseg.types import InputError

SPLITS = ("train", "val")


class CocoKeypointSource:
    """People cut out of their images, with their keypoints.

    Without `boxes` an example is a person, no crowd, with a labelled keypoint and a box that is not
    empty within the image. With them it is a detected box, and no point is known. An example holds

        `image`    `[H, W, 3]` uint8;
        `points`   `[17, 2]` float32, (row, column) in its pixels, centres at integers;
        `kinds`    `[17]` int32, k at place k, -1 where the point is not labelled or lies outside;
        `crop`     `[2, 3]` float32, from its pixels to those of the photo (`person_crops`);
        `image_id` `[]` int32, COCO's id of the photo;
        `box`      `[4]` float32, `[y0, x0, y1, x1]` in the photo, cut at its borders;
        `area`     `[]` float32, of the person's mask, of the box where it was detected;
        `score`    `[]` float32, of the detector; 1 for an annotated box;

    and `id`, the photo's name and the annotation's id (with `boxes` the place in their file).
    `people` is all that is annotated, crowds and people without keypoints too, as
    `metrics.keypoint_oks` wants it.

    Args:
      path: COCO's folder.
      split: "train", "val", "train+val", or None for those that are there.
      size: height and width of the crops. None: whole images, for a transform that cuts
        (`person_crops.random_crop_person`); then `crop` is absent, `points` are in the photo.
      padding: how much larger than the box the crop's window is, see `crop_person`.
      boxes: a detector's results as COCO's JSON, for evaluation as published.
      min_score: boxes with a lower score are left out.
      cache_bytes: decoded photos are kept in memory up to this number of bytes.

    Raises:
      InputError: a file or folder is missing or damaged, or no example is left.
      ValueError: `size` or `padding` is out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        *,
        size: tuple[int, int] | None = SIZE,
        padding: float = 1.25,
        boxes: str | os.PathLike[str] | None = None,
        min_score: float = 0.0,
        cache_bytes: int = 0,
    ):
        if size is not None and min(size) < 1:
            raise ValueError(f"size is {size}; expected 1 or more")
        if not padding > 0:
            raise ValueError(f"padding is {padding}; expected more than 0")
        root = pathlib.Path(path)
        self._files: dict[int, pathlib.Path] = {}
        photos: dict[int, Photo] = {}
        parts, files = [], []
        for name in _choose(root, split):
            folder = _photo_folder(root, name)
            file = _annotations(root, name)
            found, part = read_people(file)
            if twice := found.keys() & photos.keys():
                raise InputError(f"{file}: image {min(twice)} is in another split too; choose one")
            self._files |= {i: folder / photo.name for i, photo in found.items()}
            photos |= found
            parts.append(part)
            files.append(str(file))
        self.people = People(*map(np.concatenate, zip(*parts, strict=True)))
        self._photos = photos
        self._size, self._padding = size, padding
        if boxes is None:
            self._take_people(files)
        else:
            self._take_boxes(boxes, min_score)
        self._cache = DecodeCache(cache_bytes)

    def _take_people(self, files: list[str]) -> None:
        people = self.people
        box = self._cut(people.image_id, people.box)
        good = ~people.crowd & (people.num_keypoints > 0) & (people.area > 0)
        chosen = np.flatnonzero(good & people.labelled.any(axis=1) & _filled(box))
        if not len(chosen):
            raise InputError(
                f"{' and '.join(files)}: no person has a keypoint; choose another split"
            )
        self._examples = {
            "image_id": people.image_id[chosen].astype(np.int32),
            "points": people.points[chosen].astype(np.float32),
            "kinds": np.where(people.labelled[chosen], np.arange(len(KEYPOINTS)), -1).astype(
                np.int32
            ),
            "box": box[chosen].astype(np.float32),
            "area": people.area[chosen].astype(np.float32),
            "score": np.ones(len(chosen), np.float32),
        }
        self._name(people.ids[chosen])

    def _take_boxes(self, path: str | os.PathLike[str], min_score: float) -> None:
        detected = read_boxes(path, self._photos)
        box = self._cut(detected.image_id, detected.box)
        chosen = np.flatnonzero((detected.score >= min_score) & _filled(box))
        if not len(chosen):
            raise InputError(
                f"{path}: no box in an image has a score of {min_score} or more; lower it"
            )
        box = box[chosen]
        self._examples = {
            "image_id": detected.image_id[chosen].astype(np.int32),
            "points": np.zeros((len(chosen), len(KEYPOINTS), 2), np.float32),
            "kinds": np.full((len(chosen), len(KEYPOINTS)), -1, np.int32),
            "box": box.astype(np.float32),
            "area": np.prod(box[:, 2:] - box[:, :2], axis=1).astype(np.float32),
            "score": detected.score[chosen].astype(np.float32),
        }
        self._name(chosen)

    def _cut(self, image_id: np.ndarray, box: np.ndarray) -> np.ndarray:
        """The part of each box within its image."""
        size = np.array([self._photos[i][1:] for i in image_id.tolist()], np.float64)
        return np.clip(box, 0, np.tile(size, 2))

    def _name(self, numbers: np.ndarray) -> None:
        stems = [pathlib.Path(self._photos[i].name).stem for i in self._examples["image_id"]]
        self.ids = tuple(f"{stem}/{k}" for stem, k in zip(stems, numbers, strict=True))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes the photo of an example and cuts the person out.

        Raises:
          InputError: the photo is missing, damaged, or has another size than the annotations say.
        """
        i = operator.index(index)
        example: dict[str, Any] = {key: values[i] for key, values in self._examples.items()}
        image_id = int(example["image_id"])
        file, photo = self._files[image_id], self._photos[image_id]
        image = self._cache.get(file, lambda: images.read_image(file))
        if image.shape[:2] != photo[1:]:
            raise InputError(
                f"{file}: {image.shape[0]}x{image.shape[1]}, its annotations are of "
                f"{photo.height}x{photo.width} (height x width); copy the image again"
            )
        example |= {"image": image, "id": self.ids[i]}
        if self._size is None:
            return example
        return crop_person(example, size=self._size, padding=self._padding)

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size of an example; no image is read."""
        image_id = int(self._examples["image_id"][operator.index(index)])
        return sources.Extent(*(self._size or self._photos[image_id][1:]), 0)


def _filled(box: np.ndarray) -> np.ndarray:
    return np.all(box[:, 2:] > box[:, :2], axis=1)


def _annotations(root: pathlib.Path, split: str) -> pathlib.Path:
    return root / "annotations" / f"person_keypoints_{split}2017.json"


def _photo_folder(root: pathlib.Path, split: str) -> pathlib.Path:
    for folder in (root / f"{split}2017", root / "images" / f"{split}2017"):
        if folder.is_dir():
            return folder
    raise InputError(f"{root}: no folder {split}2017 of images; unpack {split}2017.zip there")


def _choose(root: pathlib.Path, split: str | None) -> list[str]:
    there = [name for name in SPLITS if _annotations(root, name).is_file()]
    if split is None and there:
        return there
    chosen = list(dict.fromkeys((split or SPLITS[0]).split("+")))
    for name in chosen:
        if name not in SPLITS:
            raise InputError(f"{root}: no split {name!r}; there are train and val")
        if name not in there:
            raise InputError(
                f"{_annotations(root, name)}: no such file; give COCO's folder, with its "
                "annotations_trainval2017.zip unpacked"
            )
    return chosen
