"""TensorFlow data sets in ArrayRecord files, written and read without TensorFlow."""

import json
import os
import pathlib
from typing import Any

from jaxseg.types import InputError


def import_tfds() -> Any:
    """The package tensorflow_datasets.

    Raises:
      InputError: it is not installed.
    """
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; pip install 'jaxseg[data]'") from None
    return tensorflow_datasets


def write_records(
    builder_class: Any, data_dir: str | os.PathLike[str], **options: Any
) -> pathlib.Path:
    """Lets a builder write its data set below `data_dir`; what is already there stays.

    Args:
      builder_class: a `tfds.core.GeneratorBasedBuilder`.
      data_dir: where data sets are kept; NAME/VERSION is made in it.
      **options: of the builder.

    Returns:
      The folder that was written.

    Raises:
      InputError: nothing can be written; and what the builder raises.
    """
    try:
        builder = builder_class(data_dir=str(data_dir), file_format="array_record", **options)
        builder.download_and_prepare()
    except OSError as error:
        raise InputError(
            f"{data_dir}: not written ({error}); check the folder and its space"
        ) from None
    return pathlib.Path(builder.data_path)


def records_name(folder: str | os.PathLike[str]) -> str | None:
    """The name of the data set that was written to a folder; None if there is none."""
    try:
        found = json.loads(pathlib.Path(folder, "dataset_info.json").read_text(encoding="utf-8"))
        return str(found["name"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def open_records(
    path: str | os.PathLike[str], split: str | None, name: str
) -> list[tuple[str, Any]]:
    """Opens what `write_records` wrote; images stay encoded.

    Args:
      path: the folder, or one above it.
      split: one of the data set's, several joined by "+", or None for all.
      name: of the data set, for errors.

    Returns:
      The name of each split and its records by number, dicts of features.

    Raises:
      InputError: there is no such data set, or no such split.
    """
    tfds = import_tfds()
    found = [
        file.parent
        for file in sorted(pathlib.Path(path).glob("**/dataset_info.json"))
        if records_name(file.parent) == name
    ]
    if len(found) != 1:
        raise InputError(f"{path}: no data set of jaxseg data prepare {name}; run it first")
    builder = tfds.builder_from_directory(str(found[0]))
    there = tuple(builder.info.splits)
    names = tuple(dict.fromkeys(split.split("+"))) if split else there
    for wanted in names:
        if wanted not in there:
            raise InputError(f"{path}: no split {wanted!r}; there are {', '.join(there)}")
    images = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    return [(wanted, builder.as_data_source(wanted, decoders=images)) for wanted in names]
