"""`dataset.json`: what a folder of images and labels holds."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int32, Integer

from jaxseg.types import InputError

FolderKind = Literal["partition", "classes", "instances", "unlabelled"]
Kind = FolderKind | Literal["image_classes"]
Layout = Literal["folders", "lists", "flat"]

_REMARKS = ("description", "source", "terms", "citation")


class DatasetInfo(NamedTuple):
    """The contents of `dataset.json`, checked."""

    name: str
    """For people."""
    kind: Kind
    """"partition": a label says which pixels belong together; "classes": what they are;
    "instances": which object they are; "unlabelled": images alone. Of sources that are no folders
    also "image_classes": `label` is the class of the whole image."""
    layout: Layout | None = None
    """"folders": `images/SPLIT/`; "lists": `images/` with `SPLIT.txt`; "flat": no splits."""
    channels: str = "rgb"
    """"grey", "rgb", or the names of the bands, such as "rgb+nir"."""
    classes: tuple[str, ...] = ()
    """Name of class 0, 1, ...; as many as there are classes."""
    class_ids: tuple[int, ...] = ()
    """The value that each class has in the files; class c of an example is `class_ids[c]` there."""
    colors: tuple[tuple[int, int, int], ...] = ()
    """RGB 0..255 of each class, or empty."""
    ignore: int | None = None
    """The value in the files that becomes -1."""
    background: int | None = 0
    """Instances: the value in the files that is no object."""
    stacked_masks: str | None = None
    """Instances: the folder whose PNG hold all masks of an image, one below the other."""
    annotators: bool = True
    """Whether `ID_0.png`, `ID_1.png`, ... are looked for where `ID.png` is absent."""

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0 unless `kind` is "classes" or "image_classes"."""
        return len(self.classes)


def read_info(folder: str | os.PathLike[str]) -> DatasetInfo:
    """Reads and checks `dataset.json` of a folder.

    A folder without it that holds no `labels` either is taken for unlabelled images.

    Raises:
      InputError: the folder is missing, or the file is missing beside labels, is no JSON, or holds
        a key or a value that is not known.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    path = folder / "dataset.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (folder / "labels").exists():
            raise InputError(
                f'{path}: missing, and labels need one; write {{"kind": "partition"}} '
                'or {"kind": "classes", "classes": ["name of 0", ...]} into it'
            ) from None
        return DatasetInfo(name=folder.name, kind="unlabelled")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); mend the file") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no object; write {{...}} with at least a kind")
    return _checked(path, found)


def _checked(path: pathlib.Path, found: dict[str, Any]) -> DatasetInfo:
    known = [f for f in DatasetInfo._fields if f != "class_ids"]
    if unknown := sorted(set(found) - {*known, *_REMARKS}):
        raise InputError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    values = {key: found[key] for key in known if key in found}
    for key, allowed in (("kind", get_args(FolderKind)), ("layout", (*get_args(Layout), None))):
        if values.get(key) not in allowed:
            listed = ", ".join(str(value) for value in allowed if value)
            raise InputError(f"{path}: {key} is {values.get(key)!r}; expected {listed}")
    values.setdefault("name", path.parent.name)
    for key, kinds, what in (
        ("name", str, "a text"),
        ("channels", str, "a text"),
        ("ignore", int | None, "an integer or null"),
        ("background", int | None, "an integer or null"),
        ("stacked_masks", str | None, "the name of a folder or null"),
        ("annotators", bool, "true or false"),
    ):
        if key in values and not isinstance(values[key], kinds):
            raise InputError(f"{path}: {key} is {values[key]!r}; expected {what}")
    values["class_ids"], values["classes"] = _classes(path, values)
    values["colors"] = _colors(path, values)
    return DatasetInfo(**values)


def _classes(path: pathlib.Path, values: dict) -> tuple[tuple[int, ...], tuple[str, ...]]:
    classes = values.get("classes", [])
    try:
        if isinstance(classes, Mapping):
            pairs = sorted((int(value), name) for value, name in classes.items())
        else:
            pairs = list(enumerate(classes))
    except (TypeError, ValueError):
        pairs = [(0, None)]
    if not all(isinstance(name, str) for _, name in pairs):
        raise InputError(f'{path}: classes are not names; write ["name of 0", ...] or {{"1": ...}}')
    if (values["kind"] == "classes") != bool(pairs):
        raise InputError(
            f"{path}: kind {values['kind']} with {len(pairs)} classes; "
            'list the classes if and only if the kind is "classes"'
        )
    ids, names = tuple(i for i, _ in pairs), tuple(name for _, name in pairs)
    if values.get("ignore") in ids:
        raise InputError(
            f"{path}: ignore {values['ignore']} is also a class; take it from one of the two"
        )
    return ids, names


def _colors(path: pathlib.Path, values: dict) -> tuple[tuple[int, int, int], ...]:
    colors = values.get("colors") or []
    try:
        array = np.array(colors, dtype=np.int64).reshape(-1, 3)
        good = len(array) in (0, len(values["classes"])) and array.min(initial=0) >= 0
        good = good and array.max(initial=0) <= 255
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(f"{path}: colors are not one [red, green, blue] 0..255 for each class")
    return tuple((int(r), int(g), int(b)) for r, g, b in array)


def map_labels(
    labels: Integer[np.ndarray, "h w"], info: DatasetInfo, name: str
) -> Int32[np.ndarray, "h w"]:
    """Labels as examples hold them: classes counted from 0, ignored pixels -1.

    Args:
      labels: values of the file; -1 is ignored too.
      info: says which value means what.
      name: the file, for errors.

    Raises:
      InputError: a value is no class, or negative.
    """
    values = labels.astype(np.int32)
    ignored = values == -1 if info.ignore is None else (values == -1) | (values == info.ignore)
    if info.kind == "classes":
        table = np.full(max(info.class_ids) + 2, -2, np.int32)
        table[list(info.class_ids)] = np.arange(len(info.class_ids))
        result = table[np.clip(values, -1, len(table) - 1)]
    else:
        result = np.maximum(values, -2)
    result[ignored] = -1
    if (result < -1).any():
        wrong, counts = np.unique(values[result < -1], return_counts=True)
        listed = ", ".join(f"{v} ({n} pixels)" for v, n in zip(wrong[:5], counts, strict=False))
        more = ", ..." if len(wrong) > 5 else ""
        raise InputError(
            f"{name}: values {listed}{more} are no classes of dataset.json; "
            'list them under "classes" or name the value to leave out as "ignore"'
        )
    return result
