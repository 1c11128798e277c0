import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.methods import semantic
from jaxseg.predictor import Predictor
from jaxseg.recipes import semantic as recipe
from jaxseg.recipes.superpixels import Config, build
from jaxseg.types import Network


@pytest.fixture(scope="module")
def predictor():
    return Predictor(build(Config(network="pix")), {}, {})


IMAGE = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)


def test_bytes_and_floats_agree(predictor):
    one = predictor(IMAGE, num_superpixels=8)["superpixels"]
    two = predictor(IMAGE / np.float32(255), num_superpixels=8)["superpixels"]
    assert one.shape == (20, 24)
    assert np.mean(one == two) > 0.99
    assert predictor(IMAGE, num_superpixels=30)["superpixels"].max() > one.max()


@pytest.mark.parametrize(
    "image",
    [
        IMAGE.astype(np.int32),
        IMAGE.astype(np.uint16),
        IMAGE.astype(np.float32),
        IMAGE > 100,
        IMAGE[..., 0],
        IMAGE[..., :2],
        IMAGE[:0],
    ],
    ids=["int32", "uint16", "bright", "bool", "grey", "two", "empty"],
)
def test_what_is_no_image_is_refused(predictor, image):
    with pytest.raises(ValueError, match="expected"):
        predictor(image)


def pixelwise(config_size=(0, 0)):
    """A predictor of three classes by a 1×1 convolution, and the sizes that it was given."""
    seen = []

    def apply(variables, x, *, train=False, mask=None, axis_name=None):
        seen.append(x.shape[1:3])
        return x @ variables["params"]["kernel"], {}

    def method(*, size=None, scale=1.0, probabilities=False):
        at = config_size if size is None else size
        return semantic.method(
            Network(lambda key, x: None, apply),
            num_classes=3,
            size=at if any(at) else None,
            scale=scale,
            probabilities=probabilities,
        )

    experiment = recipe.build(recipe.Config(num_classes=3, width=2, depth=1))
    kernel = jax.random.normal(jax.random.key(0), (3, 3))
    return Predictor(experiment._replace(method=method), {"kernel": kernel}, {}), seen


class TestClasses:
    def test_tiles_and_flips_give_what_one_pass_gives(self):
        predictor, seen = pixelwise()
        whole = predictor(IMAGE)
        for options in (
            {},
            {"flips": True},
            {"tile": (7, 9)},
            {"tile": (7, 9), "overlap": 0.5, "flips": True},
        ):
            found = predictor.classes(IMAGE, **options)
            assert found.classes.dtype == np.int32 and found.confidence.dtype == np.float32
            np.testing.assert_allclose(found.confidence, whole["confidence"], atol=1e-5)
            sure = whole["confidence"] > 0.5 + 1e-4
            np.testing.assert_array_equal(found.classes[sure], whole["classes"][sure])
        assert set(seen) == {(20, 24), (7, 9)}
        assert predictor.programs == 3  # without probabilities; with them, whole and by tiles

    def test_scales_are_factors_on_the_size_that_it_predicts_at(self):
        predictor, seen = pixelwise((10, 12))
        found = predictor.classes(IMAGE, scales=(0.5, 1.0))
        assert seen == [(5, 6), (10, 12)]
        image = jnp.asarray(IMAGE)[None]
        chances = [
            predictor.experiment.method(scale=scale, probabilities=True).predict(
                predictor.params, {}, {"image": image}
            )["probabilities"][0]
            for scale in (0.5, 1.0)
        ]
        mean = np.mean(chances, axis=0)
        np.testing.assert_allclose(found.confidence, mean.max(-1), atol=1e-5)
        # Tiles are of the image itself, whatever the size that is predicted at.
        predictor.classes(IMAGE, tile=(8, 8))
        assert seen[-1] == (8, 8)

    def test_a_mirrored_image_gives_the_mirrored_classes(self):
        config = recipe.Config(num_classes=3, width=2, depth=2, crop=(8, 8))
        experiment = recipe.build(config)
        variables = jax.jit(experiment.method().init)(jax.random.key(1), experiment.example)
        predictor = Predictor(experiment, *variables)
        options = {"flips": True, "scales": (1.0,)}
        one, other = (predictor.classes(x, **options) for x in (IMAGE, IMAGE[:, ::-1]))
        np.testing.assert_allclose(one.confidence, other.confidence[:, ::-1], atol=1e-5)

    def test_progress(self):
        predictor, _ = pixelwise()
        told = []

        def progress(items, name):
            told.append((name, len(items)))
            return items

        predictor.classes(IMAGE, scales=(0.5, 1.0), flips=True, progress=progress)
        predictor.classes(IMAGE, tile=(10, 12), overlap=0.0, progress=progress)
        assert told == [("passes", 4), ("tiles", 4)]

    def test_a_method_without_classes_is_refused(self, predictor):
        for tile in (None, (8, 8)):
            with pytest.raises(ValueError, match="this method predicts no classes"):
                predictor.classes(IMAGE, tile=tile)
        with pytest.raises(ValueError, match="scales is empty"):
            pixelwise()[0].classes(IMAGE, scales=())


def test_the_experiment_tells_how_it_predicts():
    config = recipe.Config(num_classes=2, width=2, depth=1, class_names=("a", "b"))
    experiment = recipe.build(config)
    assert experiment.tiles and experiment.class_names == ("a", "b")
    assert not recipe.build(dataclasses.replace(config, size=(8, 8))).tiles
