"""dataset.json and the mapping of label values."""

import json

import numpy as np
import pytest

from jaxseg.data import DatasetInfo, read_info
from jaxseg.data.info import map_labels
from jaxseg.types import InputError

CLASSES = {"kind": "classes", "classes": ["sky", "road"]}


def write(folder, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "dataset.json").write_text(text)
    return folder


def test_all_keys(tmp_path):
    content = {
        **CLASSES,
        "name": "set",
        "layout": "lists",
        "channels": "rgb+nir",
        "colors": [[0, 0, 255], [9, 9, 9]],
        "ignore": 255,
        "annotators": False,
        "terms": "CC0",
    }
    info = read_info(write(tmp_path, content))
    assert info == DatasetInfo(
        "set",
        "classes",
        "lists",
        "rgb+nir",
        ("sky", "road"),
        (0, 1),
        ((0, 0, 255), (9, 9, 9)),
        255,
        annotators=False,
    )
    assert info.num_classes == 2


def test_least(tmp_path):
    info = read_info(write(tmp_path, {"kind": "instances", "layout": None, "ignore": None}))
    assert info == DatasetInfo(tmp_path.name, "instances")
    (tmp_path / "dataset.json").unlink()
    assert read_info(tmp_path).kind == "unlabelled"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not readable as JSON"),
        ([], "holds no object"),
        ({}, "kind is None; expected partition, classes, instances, unlabelled"),
        ({"kind": "things"}, "kind is 'things'; expected"),
        (
            {"kind": "partition", "layout": "tree"},
            "layout is 'tree'; expected folders, lists, flat",
        ),
        ({"kind": "partition", "ingore": 0}, "unknown key 'ingore'; known are name"),
        ({"kind": "partition", "ignore": "x"}, "ignore is 'x'; expected an integer"),
        ({"kind": "classes"}, "with 0 classes; list the classes"),
        ({"kind": "partition", "classes": ["a"]}, "with 1 classes; list the classes"),
        ({"kind": "classes", "classes": [1]}, "classes are not names"),
        ({"kind": "classes", "classes": 3}, "classes are not names"),
        ({"kind": "classes", "classes": {"a": "b"}}, "classes are not names"),
        ({**CLASSES, "ignore": 1}, "ignore 1 is also a class"),
        ({**CLASSES, "colors": [[0, 0, 0]]}, "colors are not one"),
        ({**CLASSES, "colors": [[0, 0, 0], [0, 0, 256]]}, "colors are not one"),
        ({**CLASSES, "colors": [[0, 0], [0, 0]]}, "colors are not one"),
    ],
)
def test_bad_files(tmp_path, content, words):
    with pytest.raises(InputError) as error:
        read_info(write(tmp_path, content))
    text = str(error.value)
    assert words in text and "dataset.json" in text and "\n" not in text


def test_missing(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_info(tmp_path / "missing")
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="missing, and labels need one"):
        read_info(tmp_path)


def test_class_values_become_numbers():
    info = DatasetInfo("", "classes", classes=("a", "b", "c"), class_ids=(1, 2, 9), ignore=0)
    labels = np.array([[0, 1, 2], [9, -1, 1]])
    np.testing.assert_array_equal(map_labels(labels, info, "x"), [[-1, 0, 1], [2, -1, 0]])
    bad = np.array([[3, 3, 300], [-2, 1, 0]])
    words = r"x.png: values -2 \(1 pixels\), 3 \(2 pixels\), 300 \(1 pixels\) are no classes"
    with pytest.raises(InputError, match=words):
        map_labels(bad, info, "x.png")


def test_partition_values_stay():
    info = DatasetInfo("", "partition", ignore=7)
    labels = np.array([[0, 7, 60000]], np.uint16)
    np.testing.assert_array_equal(map_labels(labels, info, "x"), [[0, -1, 60000]])
    with pytest.raises(InputError, match=r"values -5 \(1 pixels\)"):
        map_labels(np.array([[-5, 1]]), info, "x")
