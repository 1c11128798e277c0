"""What is written of instances, and their picture."""

import json

import numpy as np
import pytest

from jaxseg import data, viz
from jaxseg.commands.instance_files import write_instances
from jaxseg.commands.options import Results
from jaxseg.data.rle import decode_rle

SIZE = (12, 17)
IMAGE = np.full((*SIZE, 3), 100, np.uint8)


def bars():
    """Three bars, the first two cross; one place without an object, and one that is empty."""
    masks = np.zeros((5, *SIZE), bool)
    masks[0, 2:5, 1:14], masks[1, 1:11, 6:9], masks[3, 7:10, 11:16] = True, True, True
    return {
        "masks": masks,
        "scores": np.array([0.4, 0.9, 0.0, 0.7, 0.3], np.float32),
        "kinds": np.array([0, 1, -1, 1, 0], np.int32),
        "boxes": np.array([[2, 1, 5, 14], [1, 6, 11, 9], [0] * 4, [7, 11, 10, 16], [0] * 4], "f4"),
    }


def write(folder, prediction, names=()):
    path = folder / "picture.png"
    results = Results(folder / "out", [path])
    write_instances(results, path, IMAGE, prediction, names)
    listed = json.loads((folder / "out" / "picture_instances.json").read_text())
    return folder / "out", listed


def test_where_some_overlap_masks_are_stacked(tmp_path):
    found = bars()
    out, listed = write(tmp_path, found, ("worm", "egg"))
    order = [1, 3, 0]
    stacked = data.read_labels(out / "picture_masks.png").reshape(-1, *SIZE) > 0
    np.testing.assert_array_equal(stacked, found["masks"][order])
    assert not (out / "picture_instances.png").exists()
    assert [e["category"] for e in listed] == ["egg", "egg", "worm"]
    assert [e["category_id"] for e in listed] == [1, 1, 0]
    assert [e["id"] for e in listed] == [1, 2, 3]
    assert [e["score"] for e in listed] == pytest.approx([0.9, 0.7, 0.4], abs=1e-4)
    assert listed[0]["bbox"] == [6, 1, 3, 10] and listed[0]["file_name"] == "picture.png"
    for entry, mask in zip(listed, stacked, strict=True):
        np.testing.assert_array_equal(decode_rle(entry["segmentation"]["counts"], SIZE), mask)
        assert entry["area"] == mask.sum() and entry["segmentation"]["size"] == list(SIZE)
    overlay = data.read_image(out / "picture_instances_overlay.png")
    np.testing.assert_array_equal(overlay, viz.overlay_masks(IMAGE, found["masks"][order]))


def test_where_none_overlap_there_is_a_label_map(tmp_path):
    found = bars()
    found["kinds"][0] = -1
    out, listed = write(tmp_path, found)
    labels = data.read_labels(out / "picture_instances.png")
    np.testing.assert_array_equal(labels == 1, found["masks"][1])
    np.testing.assert_array_equal(labels == 2, found["masks"][3])
    assert not (out / "picture_masks.png").exists() and listed[0]["category"] == "1"


def test_the_map_of_a_prediction_is_used(tmp_path):
    """Its objects are renumbered as the list has them, and those that are left out are gone."""
    found = bars()
    found["masks"][0] &= ~found["masks"][1]
    places = np.arange(1, 6)[:, None, None]
    found["instances"] = np.max(found["masks"] * places, axis=0).astype(np.int32)
    plain = {name: x for name, x in found.items() if name != "instances"}
    for kinds in (found["kinds"], np.array([0, -1, -1, 1, 0], np.int32)):
        out, listed = write(tmp_path / f"with{kinds[1]}", {**found, "kinds": kinds})
        want, same = write(tmp_path / f"without{kinds[1]}", {**plain, "kinds": kinds})
        labels = data.read_labels(out / "picture_instances.png")
        np.testing.assert_array_equal(labels, data.read_labels(want / "picture_instances.png"))
        assert listed == same and labels.max() == len(listed) == np.count_nonzero(
            kinds[[0, 1, 3]] >= 0
        )


def test_no_object(tmp_path):
    found = bars()
    found["kinds"][:] = -1
    out, listed = write(tmp_path, found)
    assert listed == [] and not data.read_labels(out / "picture_instances.png").any()
    np.testing.assert_array_equal(data.read_image(out / "picture_instances_overlay.png"), IMAGE)


def test_overlay_of_masks():
    masks = bars()["masks"]
    picture = viz.overlay_masks(IMAGE, masks, alpha=0.5)
    colors = viz.colorize(np.arange(6)[None])[0]
    # Outlines of both are seen where they cross, the later one above.
    np.testing.assert_array_equal(picture[2, 3], colors[1])
    np.testing.assert_array_equal(picture[2, 6], colors[2])
    inside = np.round(0.5 * IMAGE[8, 13] + 0.5 * colors[4].astype(float))
    np.testing.assert_allclose(picture[8, 13], inside, atol=1)
    both = colors[[1, 2]].astype(float).mean(axis=0)
    np.testing.assert_allclose(picture[3, 7], np.round(50 + 0.5 * both), atol=1)
    outside = ~masks.any(axis=0)
    np.testing.assert_array_equal(picture[outside], IMAGE[outside])
    with pytest.raises(ValueError, match="differ in size"):
        viz.overlay_masks(IMAGE[1:], masks)
    with pytest.raises(ValueError, match="alpha=2"):
        viz.overlay_masks(IMAGE, masks, alpha=2.0)
