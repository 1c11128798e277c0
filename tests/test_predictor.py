import numpy as np
import pytest

from jaxseg.predictor import Predictor
from jaxseg.recipes.superpixels import Config, build


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
