"""A network with the interface of `models.mask_rcnn` that compiles fast, and boxes of colour."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.models.mask_rcnn import MaskRCNN
from jaxseg.types import Network

STRIDES = (4, 8, 16)
FEATURES, MASK, CROP = 6, 6, 2
OPTIONS = {
    "anchor_sizes": (10.0, 16.0, 24.0),
    "anchor_samples": 64,
    "rois": 48,
    "roi_fraction": 0.25,
    "pre_nms": 40,
    "test_pre_nms": 40,
    "proposals": 36,
    "max_detections": 5,
    "canonical_size": 48.0,
    "pooled_at_once": 128,
    "sampling_ratio": 1,
}


def toy(num_classes=2, embedding=3, anchors=3, scale=0.3):
    """Means of patches, and a matrix for each part."""

    def init(key, image):
        shapes = {
            "pyramid": (16 * image.shape[-1], FEATURES),
            "score": (FEATURES, anchors),
            "deltas": (FEATURES, 4 * anchors),
            "class": (CROP * CROP * FEATURES, num_classes + 1),
            "box": (CROP * CROP * FEATURES, 4 * num_classes),
            "mask": (FEATURES, num_classes),
            "embed": (FEATURES, embedding),
        }
        keys = jax.random.split(key, len(shapes))
        params = {
            name: scale * jax.random.normal(k, shape)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return {"params": params, "batch_stats": {}}

    def pyramid(p, image):
        b, h, w, c = image.shape
        x = image.reshape(b, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5)
        levels = [jnp.tanh(x.reshape(b, h // 4, w // 4, -1) @ p["pyramid"])]
        for _ in STRIDES[1:]:
            x = levels[-1]
            x = jnp.pad(x, [(0, 0), *((0, n % 2) for n in x.shape[1:3]), (0, 0)])
            levels.append(x.reshape(b, x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4)))
        return tuple(levels)

    def propose(p, levels):
        flat = [x.reshape(len(x), -1, FEATURES) for x in levels]
        logits = [(x @ p["score"]).reshape(len(x), -1) for x in flat]
        deltas = [(x @ p["deltas"]).reshape(len(x), -1, 4) for x in flat]
        return jnp.concatenate(logits, 1), jnp.concatenate(deltas, 1)

    def classify(p, crops):
        x = crops.reshape(*crops.shape[:2], -1)
        return x @ p["class"], (x @ p["box"]).reshape(*x.shape[:2], num_classes, 4)

    def entry(function):
        def apply(variables, x, *, train=False, mask=None, axis_name=None):
            return function(variables["params"], x), variables["batch_stats"]

        return Network(init, apply)

    return MaskRCNN(
        entry(pyramid),
        entry(propose),
        entry(classify),
        entry(lambda p, crops: crops @ p["mask"]),
        entry(lambda p, levels: tuple(x @ p["embed"] for x in levels)) if embedding else None,
        STRIDES,
        num_classes,
        MASK,
        (CROP, MASK),
    )


def batch(size=2, height=32, width=40, instances=3, seed=0, counts=None):
    """Rectangles of two kinds, a colour for each, on noise; `counts` of them in each image."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((size, instances, height, width), bool)
    kinds = np.full((size, instances), -1, np.int32)
    image = rng.integers(0, 60, (size, height, width, 3))
    for i in range(size):
        number = instances if counts is None else counts[i]
        for j in range(number):
            sides = rng.integers(8, 18, 2)
            top, left = rng.integers(0, np.array((height, width)) - sides)
            masks[i, j, top : top + sides[0], left : left + sides[1]] = True
            kinds[i, j] = rng.integers(2)
            image[i][masks[i, j]] = (220, 40, 60) if kinds[i, j] else (60, 230, 40)
    return {
        "image": image.astype(np.uint8),
        "masks": masks,
        "valid": kinds >= 0,
        "kinds": kinds,
        "index": np.arange(size, dtype=np.int32),
        "weight": np.ones(size, np.float32),
        "size": np.tile(np.array([[height, width]], np.int32), (size, 1)),
    }
