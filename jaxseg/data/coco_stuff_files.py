"""COCO-Stuff's files, and the lists of images that are mostly of some classes."""

import concurrent.futures
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from jaxseg.data.files import write_text
from jaxseg.types import InputError

SPLITS = ("train", "val")
"""In the download `train2017` and `val2017`."""


class Files(NamedTuple):
    """An image and its label map."""

    image: pathlib.Path
    label: pathlib.Path


class Rule(NamedTuple):
    """Which images are kept."""

    name: str
    """Of the classes, in the names of lists."""
    min_share: float
    """How much of an image must be of the classes, 0..1; unlabelled pixels count as others."""
    min_side: int
    """How many pixels both sides of an image must have."""

    def keeps(self, label: Integer[np.ndarray, "h w"]) -> bool:
        """Whether an image with these classes, -1 for others, is kept."""
        small = min(label.shape) < self.min_side
        return not small and bool((label >= 0).sum() >= self.min_share * label.size)


def choose_splits(folder: pathlib.Path, split: str | None) -> tuple[str, ...]:
    """The splits that are asked for, several joined by "+"; None: those whose images are there.

    Raises:
      InputError: there is no such split.
    """
    there = tuple(name for name in SPLITS if (folder / "images" / f"{name}2017").is_dir())
    if not there:
        raise InputError(
            f"{folder}: no images/train2017 or images/val2017; unpack COCO's train2017.zip and "
            "val2017.zip into images"
        )
    names = tuple(
        dict.fromkeys(s.removesuffix("2017") for s in (split or "+".join(there)).split("+"))
    )
    for wanted in names:
        if wanted not in there:
            raise InputError(f"{folder}: no split {wanted!r}; there are {', '.join(there)}")
    return names


def find_files(folder: pathlib.Path, split: str) -> dict[str, Files]:
    """The images of a split with their label maps, by rising id, such as "000000000139".

    Raises:
      InputError: there is no image, or one has no label map.
    """
    images, maps = (folder / kind / f"{split}2017" for kind in ("images", "annotations"))
    found = _listed(images, ".jpg")
    if not found:
        raise InputError(f"{images}: no .jpg; unpack COCO's {split}2017.zip into images")
    labels = _listed(maps, ".png")
    for name in found:
        if name not in labels:
            raise InputError(
                f"{images / name}.jpg: no label {maps / name}.png; unpack "
                "stuffthingmaps_trainval2017.zip into annotations"
            )
    return {name: Files(images / f"{name}.jpg", maps / f"{name}.png") for name in sorted(found)}


def _listed(folder: pathlib.Path, suffix: str) -> set[str]:
    # A file at a time would be asked for 120,000 times. Copies from a Mac hold ._NAME beside NAME.
    names = os.listdir(folder) if folder.is_dir() else []
    return {n.removesuffix(suffix) for n in names if n.endswith(suffix) and not n.startswith(".")}


def list_curated(
    path: pathlib.Path,
    files: Mapping[str, Files],
    rule: Rule,
    read: Callable[[pathlib.Path], np.ndarray],
) -> list[str]:
    """The ids of the images that the rule keeps, read from a list, or found and listed.

    Args:
      path: the list, an id a line. Its first line tells the rule and the number of images; if it
        tells others, the list is made anew. A list without such a line is taken as it is.
      files: the images to choose from.
      rule: which to keep.
      read: gives the classes of a label map, -1 for others.

    Returns:
      In the order of the list.

    Raises:
      InputError: a label map is damaged, the list cannot be written, or it names an image that is
        not there, or none.
    """
    head = (
        f"# of {len(files)} images those with at least {rule.min_share:g} of the pixels in the "
        f"classes of {rule.name} and both sides of at least {rule.min_side} pixels"
    )
    lines = _read_lines(path)
    if not lines or (lines[0].startswith("#") and lines[0] != head):
        lines = [head, *_choose(files, rule, read, path.stem)]
        write_text(path, "".join(f"{line}\n" for line in lines))
    names = [line for line in lines if line and not line.startswith("#")]
    if missing := [name for name in names if name not in files]:
        raise InputError(
            f"{path}: lists {missing[0]!r}, of which there is no image; remove the list"
        )
    if not names:
        raise InputError(f"{path}: lists no image; lower min_share or min_side, or take all images")
    return names


def _read_lines(path: pathlib.Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error}); remove the list") from None


def _choose(
    files: Mapping[str, Files], rule: Rule, read: Callable[[pathlib.Path], Any], what: str
) -> list[str]:
    from tqdm import tqdm

    # Pillow decodes without holding the interpreter.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        kept = pool.map(lambda one: rule.keeps(read(one.label)), files.values())
        shown = tqdm(
            zip(files, kept, strict=True),
            desc=what,
            total=len(files),
            unit="image",
            disable=not sys.stderr.isatty(),
        )
        return [name for name, keep in shown if keep]
