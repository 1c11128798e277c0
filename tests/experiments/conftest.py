"""The experiments as modules, and a small folder of segmentations with several annotators."""

import pathlib
import sys

import pytest
from command_line import partition, picture

from jaxseg.data import write_image, write_labels

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent / "experiments"))

ANNOTATORS = {"wide": ((40, 56), 2), "high": ((56, 40), 3)}
"""Image -> its size and number of annotations."""


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated") / "set"
    for kind in ("images", "labels"):
        (folder / kind / "test").mkdir(parents=True)
    for seed, (name, (size, count)) in enumerate(ANNOTATORS.items()):
        write_image(folder / "images" / "test" / f"{name}.png", picture(seed, size))
        for k in range(count):
            label = partition(size) // (k + 1)
            write_labels(folder / "labels" / "test" / f"{name}_{k}.png", label)
    (folder / "dataset.json").write_text('{"kind": "partition"}')
    return folder
