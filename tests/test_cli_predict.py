"""`jaxseg predict` of classes, and weights that others published."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from command_line import Jaxseg, files, picture
from PIL import Image
from safetensors.numpy import load_file, save_file

import jaxseg as package
from jaxseg import data, viz, weights
from jaxseg.commands import predict as command
from jaxseg.recipes import semantic

RELEASED = pathlib.Path(__file__).parent / "goldens" / "espnetv2_s_0.5_city_512x256.safetensors"
CONFIG = semantic.Config(
    num_classes=3,
    width=2,
    depth=1,
    crop=(8, 8),
    class_names=("sky", "road", "car"),
    class_colors=((0, 0, 250), (90, 90, 90), (250, 0, 0)),
)


@pytest.fixture
def jaxseg(capsys):
    return Jaxseg(capsys)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A file of random weights of a narrow U-Net."""
    path = tmp_path_factory.mktemp("packed") / "tiny.safetensors"
    experiment = semantic.build(CONFIG)
    variables = jax.jit(experiment.method().init)(jax.random.key(0), experiment.example)
    plain = json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    card = weights.Card("tiny", "", "semantic", plain, 3, "0", "", "")
    weights.write_weights(path, card, weights.name_tensors(*jax.device_get(variables)))
    return path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    data.write_image(path, picture())
    return path


class TestPredict:
    def test_writes_classes_a_legend_and_the_confidence(self, jaxseg, packed, photo, tmp_path):
        jaxseg.succeeds("predict", packed, photo, "-o", tmp_path / "out")
        expected = package.load(packed)(picture())
        assert set(files(tmp_path / "out")) == {
            pathlib.Path(f"photo_{end}.png") for end in ("classes", "classes_overlay", "confidence")
        }
        labels = np.array(Image.open(tmp_path / "out/photo_classes.png"))
        np.testing.assert_array_equal(labels, expected["classes"])
        overlay = np.array(Image.open(tmp_path / "out/photo_classes_overlay.png"))
        drawn = viz.overlay_classes(
            picture(),
            expected["classes"],
            colors=np.array(CONFIG.class_colors, np.uint8),
            names=CONFIG.class_names,
        )
        np.testing.assert_array_equal(overlay, drawn)
        shown = np.array(Image.open(tmp_path / "out/photo_confidence.png"))
        np.testing.assert_array_equal(shown, viz.show_confidence(expected["confidence"]))

    @pytest.mark.parametrize(
        ("options", "given"),
        [
            (("--tile", 24, 32, "--overlap", 0.5, "--flips"), {"tile": (24, 32), "flips": True}),
            (("--scales", 0.5, 1.0), {"scales": (0.5, 1.0)}),
        ],
    )
    def test_options_are_those_of_the_predictor(
        self, jaxseg, packed, photo, tmp_path, options, given
    ):
        jaxseg.succeeds("predict", packed, photo, "-o", tmp_path / "out", *options)
        overlap = 0.5 if "tile" in given else 0.25
        expected = package.load(packed).classes(picture(), overlap=overlap, **given)
        labels = np.array(Image.open(tmp_path / "out/photo_classes.png"))
        np.testing.assert_array_equal(labels, expected.classes)

    def test_a_large_image_goes_by_tiles(self, jaxseg, packed, photo, tmp_path, monkeypatch):
        monkeypatch.setattr(command, "_WHOLE", 40 * 56 - 1)
        monkeypatch.setattr(command, "_TILE", (24, 32))
        jaxseg.succeeds("predict", packed, photo, "-o", tmp_path / "out")
        expected = package.load(packed).classes(picture(), tile=(24, 32))
        labels = np.array(Image.open(tmp_path / "out/photo_classes.png"))
        np.testing.assert_array_equal(labels, expected.classes)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (("--tile", 0, 8), "--tile (0, 8): give a height and a width"),
            (("--overlap", 1), "--overlap 1.0: give 0 or more"),
            (("--scales", -1), "--scales (-1.0,): give numbers above 0"),
        ],
    )
    def test_wrong_options(self, jaxseg, packed, photo, tmp_path, options, says):
        jaxseg.refuses("predict", packed, photo, "-o", tmp_path / "out", *options, says=[says])
        assert not (tmp_path / "out").exists()

    def test_superpixels_have_no_scales(self, jaxseg, photo, tmp_path):
        out = ("-o", tmp_path / "out")
        jaxseg.refuses(
            "predict", "ssn-bsds500", photo, *out, "--flips", says=[photo, "predicts no classes"]
        )


class TestConvert:
    def test_a_release_predicts_from_its_file(self, jaxseg, photo, tmp_path):
        file = tmp_path / "espnet.safetensors"
        release = ("--release", "espnetv2-0.5-cityscapes", "--size", 32, 48)
        jaxseg.succeeds("weights", "convert", RELEASED, *release, "-o", file)
        assert "espnetv2-0.5-cityscapes" in jaxseg.succeeds("weights", "show", file)
        card = weights.read_card(file)
        assert card.config["size"] == [32, 48] and card.config["num_classes"] == 20
        jaxseg.succeeds("predict", file, photo, "-o", tmp_path / "out")
        labels = np.array(Image.open(tmp_path / "out/photo_classes.png"))
        assert labels.shape == picture().shape[:2] and labels.max() < 20

    def test_tensors_as_they_are(self, jaxseg, tmp_path):
        jaxseg.succeeds("weights", "convert", RELEASED, "-o", tmp_path / "same.safetensors")
        before, after = load_file(RELEASED), load_file(tmp_path / "same.safetensors")
        assert set(before) == set(after)
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value)

    def test_weights_of_another_network(self, jaxseg, tmp_path):
        out = ("-o", tmp_path / "a.safetensors")
        source = tmp_path / "wrong.safetensors"
        save_file({"fc.weight": np.zeros((2, 3), np.float32)}, source)
        release = ("--release", "espnetv2-0.5-cityscapes")
        jaxseg.refuses(
            *("weights", "convert", source, *release, *out),
            says=[source, "unexpected: fc.weight", "missing: ", "more"],
        )
        jaxseg.refuses(
            *("weights", "convert", RELEASED, "--release", "espnetv2-2-cityscapes", *out),
            says=[RELEASED, "misshapen: ", "[16, 3, 3, 3]", "more"],
        )
        jaxseg.refuses(
            *("weights", "convert", RELEASED, "--release", "resnet", *out),
            says=["--release resnet: is not known; choose espnetv2-0.5-cityscapes"],
        )
        assert set(files(tmp_path)) == {pathlib.Path("wrong.safetensors")}
