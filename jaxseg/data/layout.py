"""Which files of a folder belong together: splits, images, and their labels."""

import os
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from jaxseg.data import images, info
from jaxseg.types import InputError

_USUAL = ("train", "val", "test")


class Entry(NamedTuple):
    """An image and its labels."""

    id: str
    image: pathlib.Path
    labels: tuple[pathlib.Path, ...]
    """One file per annotator; empty without labels, or where `masks` takes their place."""
    masks: pathlib.Path | None
    """Instance masks, one below the other."""


def splits(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the splits of a folder, "all" for one without splits.

    Raises:
      InputError: the folder is missing or `dataset.json` is not good.
    """
    folder = pathlib.Path(path)
    return _splits(folder, info.read_info(folder))


def find_entries(
    folder: pathlib.Path, dataset: info.DatasetInfo, split: str | None, *, partition: bool
) -> list[Entry]:
    """The images of the split (several joined by "+"; None: all) with their labels.

    Args:
      folder: the folder of `dataset.json`.
      dataset: its contents.
      split: see `folders.open_folder`.
      partition: prefer label maps over stacked masks.

    Raises:
      InputError: a split, an image, or a label is missing.
    """
    return [
        entry
        for name in _chosen(folder, dataset, split)
        for entry in _entries(folder, dataset, name, partition)
    ]


def _layout(folder: pathlib.Path, dataset: info.DatasetInfo) -> info.Layout:
    if dataset.layout is not None:
        return dataset.layout
    inside = folder / "images"
    if inside.is_dir() and any(p.is_dir() for p in inside.iterdir()):
        return "folders"
    return "lists" if inside.is_dir() and any(folder.glob("*.txt")) else "flat"


def _splits(folder: pathlib.Path, dataset: info.DatasetInfo) -> tuple[str, ...]:
    layout = _layout(folder, dataset)
    if layout == "flat":
        return ("all",)
    if layout == "lists":
        # Other text files need not be lists, unless they are all there is.
        lists = sorted(p.stem for p in folder.glob("*.txt"))
        found = [name for name in lists if name in _USUAL] or lists
    else:
        found = sorted(p.name for p in _listed(folder / "images") if p.is_dir())
    if not found:
        what = "images/train/ and the like" if layout == "folders" else "train.txt and the like"
        raise InputError(f"{folder}: no splits; expected {what}")
    usual = [name for name in _USUAL if name in found]
    return (*usual, *(name for name in found if name not in usual))


def _chosen(folder: pathlib.Path, dataset: info.DatasetInfo, split: str | None) -> tuple[str, ...]:
    there = _splits(folder, dataset)
    if split is None:
        return there
    names = tuple(dict.fromkeys(split.split("+")))
    for name in names:
        listed = _layout(folder, dataset) == "lists" and (folder / f"{name}.txt").is_file()
        if name not in there and not listed:
            raise InputError(f"{folder}: no split {name!r}; there are {', '.join(there)}")
    return names


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; see the layout in dataset.json")
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _by_stem(paths: Iterable[pathlib.Path], suffixes: tuple[str, ...]) -> dict[str, pathlib.Path]:
    found: dict[str, pathlib.Path] = {}
    for path in paths:
        if path.suffix.lower() in suffixes:
            if path.stem in found:
                raise InputError(
                    f"{path}: {found[path.stem].name} has the same name; rename one of the two"
                )
            found[path.stem] = path
    return found


def _entries(
    folder: pathlib.Path, dataset: info.DatasetInfo, split: str, partition: bool
) -> list[Entry]:
    layout = _layout(folder, dataset)
    below = split if layout == "folders" else "."
    inside = folder / "images" / below
    if layout == "flat" and not inside.is_dir():
        inside = folder
    found = _by_stem(_listed(inside), images.IMAGE_SUFFIXES)
    if not found:
        raise InputError(f"{inside}: no images; expected {', '.join(images.IMAGE_SUFFIXES)}")
    ids = _read_list(folder / f"{split}.txt", found) if layout == "lists" else list(found)
    labels: dict[str, tuple[pathlib.Path, ...]] = {}
    masks: dict[str, pathlib.Path] = {}
    where = folder / "labels" / below
    stacked = dataset.stacked_masks if dataset.kind == "instances" else None
    if stacked is not None and not (partition and where.is_dir()):
        where = folder / stacked / below
        masks = _by_stem(_listed(where), (".png",))
    elif dataset.kind != "unlabelled":
        labels = _annotations(_listed(where), found, dataset.annotators)
    if dataset.kind != "unlabelled":
        for name in ids:
            if name not in labels and name not in masks:
                raise InputError(
                    f"{found[name]}: no label {where / name}.png; add it or take the image out"
                )
    return [Entry(name, found[name], labels.get(name, ()), masks.get(name)) for name in ids]


def _annotations(
    paths: list[pathlib.Path], ids: Iterable[str], several: bool
) -> dict[str, tuple[pathlib.Path, ...]]:
    """Files of each image: `ID.png`, or else `ID_K.png` by rising K, unless that is an image's."""
    named = _by_stem(paths, (".png",))
    ids = set(ids)
    numbered: dict[str, list[tuple[int, pathlib.Path]]] = {}
    for stem, path in named.items():
        if several and stem not in ids and (match := re.fullmatch(r"(.+)_(\d+)", stem)):
            numbered.setdefault(match[1], []).append((int(match[2]), path))
    files = {name: tuple(p for _, p in sorted(numbered[name])) for name in ids if name in numbered}
    return files | {name: (named[name],) for name in ids if name in named}


def _read_list(path: pathlib.Path, found: dict[str, pathlib.Path]) -> list[str]:
    by_file = {image.name: name for name, image in found.items()}
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error}); write one image's name a line") from None
    ids = []
    for number, line in enumerate(lines, 1):
        if line:
            if line not in found and line not in by_file:
                raise InputError(
                    f"{path}: line {number}: no image {line!r}; add it or strike the line"
                )
            ids.append(line if line in found else by_file[line])
    if not ids:
        raise InputError(f"{path}: empty; write one image's name a line")
    return ids
