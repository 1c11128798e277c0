"""The baselines of CamVid: a linear classifier, and Cityscapes' classes grouped."""

import json
import pathlib

import camvid_cityscapes
import camvid_linear
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import data
from jaxseg.types import InputError, Method
from jaxseg.weights import RELEASES

NAMES = RELEASES["espnetv2-2-cityscapes"].config.class_names


def test_the_linear_classifier_finds_the_least_loss():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(400, 2)), np.ones((400, 1))], axis=1)
    true = np.array([[2.0, -1.0, 0.0], [0.0, 1.5, -1.0], [0.5, 0.0, -0.5]])
    y = np.argmax(x @ true + rng.gumbel(size=(400, 3)), axis=1)
    weights = np.array([1.0, 2.0, 0.5])
    found = camvid_linear.fit(x, y, weights)

    def loss(coefficients):
        logits = x @ coefficients
        surprise = np.log(np.exp(logits).sum(1)) - logits[np.arange(400), y]
        return np.sum(weights[y] * surprise) / weights[y].sum()

    least = loss(found)
    for i, j in np.ndindex(3, 3):
        for step in (-0.05, 0.05):
            moved = found.copy()
            moved[i, j] += step
            assert loss(moved) > least


def test_the_linear_classifier_from_end_to_end(tmp_path, capsys):
    info = {"kind": "classes", "layout": "folders", "classes": ["dark", "bright"]}
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        label = (rng.random((8, 9)) > 0.5).astype(np.int32)
        image = (label[..., None] * 200 + rng.integers(0, 50, (8, 9, 3))).astype(np.uint8)
        data.write_image(tmp_path / "images" / split / "a.png", image)
        data.write_labels(tmp_path / "labels" / split / "a.png", label)
    assert camvid_linear.main(["--data", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "without weights: mIoU 100.00, accuracy 100.00, 1 images of test"
    assert camvid_linear.main(["--data", str(tmp_path / "none")]) == 2


class TestGrouped:
    def predict(self, chances):
        method = Method(None, None, lambda params, state, batch: {"probabilities": chances})
        grouped = camvid_cityscapes.grouped(method, NAMES)
        return np.asarray(grouped.predict({}, {}, {})["classes"]).tolist()

    def test_every_class_of_cityscapes_goes_to_its_own(self):
        groups = list(camvid_cityscapes.GROUPS.values())
        chances = jnp.eye(len(NAMES))[None, :19]
        expected = [next(i for i, g in enumerate(groups) if n in g) for n in NAMES[:19]]
        assert self.predict(chances) == [expected]

    def test_probabilities_are_summed_and_background_counts_for_nothing(self):
        chances = np.zeros(len(NAMES), np.float32)
        for name, value in (("sky", 0.3), ("car", 0.2), ("bus", 0.15), ("background", 0.35)):
            chances[NAMES.index(name)] = value
        car = list(camvid_cityscapes.GROUPS).index("Car")
        assert self.predict(jnp.asarray(chances)[None]) == [car]

    @pytest.mark.parametrize("names", [("a", "b"), (), NAMES[1:]])
    def test_other_classes_are_refused(self, names):
        with pytest.raises(InputError, match="give Cityscapes weights"):
            camvid_cityscapes.grouped(Method(None, None, None), names)


def test_weights_that_are_not_there(tmp_path, capsys):
    missing = pathlib.Path(tmp_path / "w.safetensors")
    options = ["--weights", str(missing), "--data", str(tmp_path)]
    assert camvid_cityscapes.main(options) == 2
    assert capsys.readouterr().err.startswith(f"camvid_cityscapes: {missing}: no such file")
