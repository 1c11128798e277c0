"""COCO's people with their keypoints, and detectors' boxes, from the public JSON files to arrays.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; the keypoints are of the release
of 2017, `annotations/person_keypoints_{train,val}2017.json`.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from jaxseg.types import InputError

KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder"),
    *("right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip"),
    *("right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
"""Names of the keypoints 0 .. 16."""

_PERSON = 1
_MOST = 2**31


class Photo(NamedTuple):
    """An image as the annotations describe it."""

    name: str
    height: int
    width: int


class People(NamedTuple):
    """The annotated people of some images; lengths in pixels, points and boxes (row, column)."""

    images: Int64[np.ndarray, " i"]
    """Ids of all images, those without people too."""
    ids: Int64[np.ndarray, " n"]
    """Of the annotations."""
    image_id: Int64[np.ndarray, " n"]
    points: Float64[np.ndarray, "n 17 2"]
    """Pixel centres at integers; 0 where not labelled."""
    labelled: Bool[np.ndarray, "n 17"]
    """Visible or hidden: COCO's v is 1 or 2."""
    num_keypoints: Int64[np.ndarray, " n"]
    """As annotated: how many are labelled."""
    box: Float64[np.ndarray, "n 4"]
    """`[y0, x0, y1, x1]`."""
    area: Float64[np.ndarray, " n"]
    """Of the person's mask."""
    crowd: Bool[np.ndarray, " n"]
    """A group that was not told apart."""


class Boxes(NamedTuple):
    """A detector's boxes of people."""

    image_id: Int64[np.ndarray, " n"]
    box: Float64[np.ndarray, "n 4"]
    """`[y0, x0, y1, x1]` in pixels."""
    score: Float64[np.ndarray, " n"]


def read_people(path: str | os.PathLike[str]) -> tuple[dict[int, Photo], People]:
    """Reads a `person_keypoints_*.json`.

    Returns:
      The images by id, and the annotations of the category person in the order of the file.

    Raises:
      InputError: the file is missing, no JSON, damaged, or holds no keypoints.
    """
    content = _read_json(path)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise InputError(
            f"{path}: no images and annotations in it; give COCO's person_keypoints_*.json"
        )
    photos: dict[int, Photo] = {}
    for image in _entries(content["images"], path, "image"):
        photo = Photo(*_take(image, path, "image", file_name=str, height=int, width=int))
        photos[_take(image, path, "image", id=_identity)[0]] = photo
    rows = _entries(content["annotations"], path, "annotation")
    rows = [row for row in rows if row.get("category_id", _PERSON) == _PERSON]
    if not any("keypoints" in row for row in rows):
        raise InputError(f"{path}: no keypoints in it; give COCO's person_keypoints_*.json")
    wanted = {
        **{"id": int, "image_id": _identity, "keypoints": _numbers(3 * len(KEYPOINTS))},
        **{"num_keypoints": int, "bbox": _numbers(4), "area": _number, "iscrowd": bool},
    }
    found = [_take(row, path, "annotation", **wanted) for row in rows]
    for identity, image_id, *_ in found:
        if image_id not in photos:
            raise InputError(
                f"{path}: annotation {identity} is of image {image_id}, which is not listed; "
                "copy the file again"
            )
    ids, image_ids, keypoints, counts, boxes, areas, crowds = zip(*found, strict=True)
    table = np.array(keypoints, np.float64).reshape(-1, len(KEYPOINTS), 3)
    labelled = table[..., 2] > 0
    people = People(
        images=np.array(sorted(photos), np.int64),
        ids=np.array(ids, np.int64),
        image_id=np.array(image_ids, np.int64),
        points=np.where(labelled[..., None], table[..., 1::-1], 0.0),
        labelled=labelled,
        num_keypoints=np.array(counts, np.int64),
        box=_corners(boxes),
        area=np.array(areas, np.float64),
        crowd=np.array(crowds, bool),
    )
    return photos, people


def read_boxes(path: str | os.PathLike[str], photos: Mapping[int, Photo]) -> Boxes:
    """Reads boxes in COCO's format of results.

    Args:
      path: a JSON list of `image_id`, `category_id`, `bbox` and `score`; other categories than
        person (1) are left out.
      photos: the images that it may speak of.

    Raises:
      InputError: the file is missing, no JSON, damaged, of other images, or without people.
    """
    content = _entries(_read_json(path), path, "result")
    wanted = {"image_id": _identity, "bbox": _numbers(4), "score": _number}
    rows = [row for row in content if row.get("category_id", _PERSON) == _PERSON]
    if not rows:
        raise InputError(f"{path}: no boxes of people (category 1); give a detector's results")
    found = [_take(row, path, "result", **wanted) for row in rows]
    for image_id, _, _ in found:
        if image_id not in photos:
            raise InputError(
                f"{path}: a box of image {image_id}, which the annotations do not list; "
                "give the results of the same split"
            )
    image_ids, boxes, scores = zip(*found, strict=True)
    return Boxes(np.array(image_ids, np.int64), _corners(boxes), np.array(scores, np.float64))


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: no JSON ({reason}); copy the file again") from None


def _entries(content: Any, path: str | os.PathLike[str], kind: str) -> list[dict[str, Any]]:
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise InputError(f"{path}: its {kind}s are no list of objects; copy the file again")
    return content


def _take(
    entry: Mapping[str, Any], path: str | os.PathLike[str], kind: str, **wanted: Any
) -> tuple[Any, ...]:
    """The values of an entry under these names, each as its function makes it."""
    values = []
    for name, make in wanted.items():
        try:
            values.append(make(entry[name]))
        except (KeyError, TypeError, ValueError, OverflowError):
            number = entry.get("id", entry.get("image_id", "without an id"))
            raise InputError(
                f"{path}: {kind} {number} has {name} {str(entry.get(name))[:60]!r}; "
                "copy the file again"
            ) from None
    return tuple(values)


def _identity(value: Any) -> int:
    """An id, of which batches hold 32 bits."""
    if int(value) != value or not 0 <= value < _MOST:
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _numbers(count: int) -> Any:
    def make(values: Any) -> list[float]:
        found = [*map(float, values)]
        # One number that is not finite leaves no finite sum.
        if len(found) != count or not math.isfinite(sum(found)):
            raise ValueError
        return found

    return make


def _corners(boxes: Sequence[Sequence[float]]) -> Float64[np.ndarray, "n 4"]:
    """`[y0, x0, y1, x1]` of COCO's x, y, width, height."""
    x, y, width, height = np.array(boxes, np.float64).T
    return np.stack([y, x, y + height, x + width], axis=1)
