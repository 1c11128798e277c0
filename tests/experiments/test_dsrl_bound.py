"""What a coarse output allows, on labels that the test writes."""

import json

import dsrl_bound
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    info = {"kind": "classes", "layout": "folders", "classes": list("abc"), "ignore": 9}
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind / "test").mkdir(parents=True)
    for name, shape in {"a": (12, 16), "b": (10, 14)}.items():
        label = np.kron(rng.integers(0, 3, (6, 8)), np.ones((2, 2)))[: shape[0], : shape[1]]
        label[0, 0] = 9
        image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "images/test" / f"{name}.png")
        Image.fromarray(label.astype(np.uint8)).save(tmp_path / "labels/test" / f"{name}.png")
    return tmp_path


def slow(label, factor):
    """Cell by cell and pixel by pixel; sides that `factor` divides."""
    height, width = (n // factor for n in label.shape)
    scores = np.zeros((height, width, 3))
    for y, x in np.ndindex(height, width):
        cell = label[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        scores[y, x] = [np.mean(cell == k) for k in range(3)]
    told = np.zeros(label.shape, int)
    for y, x in np.ndindex(label.shape):
        parts = []
        for place, length in ((y, height), (x, width)):
            at = min(max((place + 0.5) / factor - 0.5, 0), length - 1)
            low = min(int(at), length - 2)
            parts.append((low, at - low))
        (i, v), (j, u) = parts
        upper = (1 - u) * scores[i, j] + u * scores[i, j + 1]
        lower = (1 - u) * scores[i + 1, j] + u * scores[i + 1, j + 1]
        told[y, x] = np.argmax((1 - v) * upper + v * lower)
    return told


def test_cells_of_labels_are_enlarged():
    label = np.random.default_rng(1).integers(-1, 3, (12, 20)).astype(np.int32)
    for factor in (2, 4):
        found = np.asarray(dsrl_bound.coarsened(label, 3, factor))
        # Equal scores are either's.
        assert np.mean(found == slow(label, factor)) > 0.97
    np.testing.assert_array_equal(
        np.asarray(dsrl_bound.coarsened(label, 3, 1))[label >= 0], label[label >= 0]
    )


def test_the_command(folder, capsys):
    assert dsrl_bound.main(["--data", str(folder), "--factors", "1", "4"]) == 0
    *_, fine, coarse = capsys.readouterr().out.splitlines()
    assert fine == "| 1×1 | 100.00 | 100.00 | 100.00 |"
    miou, near, _ = (float(cell) for cell in coarse.split("|")[2:5])
    assert coarse.startswith("| 4×4 |") and 0 < near <= miou < 100
    assert dsrl_bound.main(["--data", str(folder), "--factors", "0"]) == 2
    assert "factors is (0,); give 1 or more each" in capsys.readouterr().err
