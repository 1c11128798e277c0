"""Cases of the losses of semantic segmentation, and of their weights, for `test_contracts`."""

import numpy as np

RNG = np.random.default_rng(0)
BATCH, SIZE, CLASSES = 5, (4, 3), 4

LOGITS = 2 * RNG.standard_normal((BATCH, *SIZE, CLASSES), np.float32)
LABELS = RNG.integers(-1, CLASSES, (BATCH, *SIZE)).astype(np.int32)
NO_LABELS = np.full((BATCH, *SIZE), -1, np.int32)
SOFT = RNG.dirichlet(np.ones(CLASSES), (BATCH, *SIZE)).astype(np.float32)
HALF_SOFT = np.where(LABELS[..., None] < 0, np.float32(0), SOFT)
CLASS_WEIGHTS = np.array([0.5, 2.0, 1.0, 0.25], np.float32)
PIXEL_WEIGHTS = 0.1 + RNG.random((BATCH, *SIZE), np.float32)
COUNTS = RNG.integers(0, 9, (6, CLASSES))
OBJECTS = np.zeros((9, 8), np.int32)
OBJECTS[1:4, 1:3], OBJECTS[1:4, 4:7], OBJECTS[6, 6] = 1, 5, -1

WEIGHTS = {"class_weights": CLASS_WEIGHTS, "pixel_weights": PIXEL_WEIGHTS}
NUMBER = np.float32(0.3)  # a traced scalar


def overlap(**traced):
    """The cases of dice and its like, with numbers that are traced in one of them."""
    return [
        ((LOGITS, LABELS), {"smooth": 1.0, "ignore_label": 2, **WEIGHTS}, "exact"),
        ((LOGITS, SOFT), {**traced, "classes": "all", **WEIGHTS}, "exact"),
    ]


CASES = {  # name -> (arguments, options, gradient)
    "losses.cross_entropy": [
        ((LOGITS, LABELS), {}, "exact"),
        ((LOGITS, LABELS), {"ignore_label": 2, **WEIGHTS}, "exact"),
        ((LOGITS, NO_LABELS), WEIGHTS, "exact"),
        ((LOGITS, SOFT), WEIGHTS, "exact"),
        # By its own probability an ignored pixel begins to count: no derivative there.
        ((LOGITS, HALF_SOFT), {}, "finite"),
    ],
    "losses.focal": [
        ((LOGITS, LABELS), {"ignore_label": 2, **WEIGHTS}, "exact"),
        ((LOGITS, SOFT), {"gamma": NUMBER, **WEIGHTS}, "exact"),
        ((LOGITS, NO_LABELS), {"gamma": 0.5}, "exact"),
    ],
    "losses.ohem_cross_entropy": [
        ((LOGITS, LABELS), {"ignore_label": 2, **WEIGHTS}, "exact"),
        ((LOGITS, SOFT), {"threshold": NUMBER, "min_kept": NUMBER, **WEIGHTS}, "exact"),
        ((LOGITS, NO_LABELS), {"threshold": 0.0}, "exact"),
    ],
    "losses.dice": [*overlap(smooth=NUMBER), ((LOGITS, NO_LABELS), {}, "exact")],
    "losses.jaccard": overlap(smooth=NUMBER),
    "losses.tversky": overlap(smooth=NUMBER, alpha=NUMBER, beta=NUMBER),
    "losses.lovasz": [
        ((LOGITS, LABELS), {"ignore_label": 2, **WEIGHTS}, "exact"),
        ((LOGITS, LABELS), {"classes": "all", **WEIGHTS}, "exact"),
        ((LOGITS, NO_LABELS), {}, "exact"),
    ],
}
HOST = {
    "losses.median_frequency_weights": [
        ((COUNTS,), {}),
        ((COUNTS,), {"image_pixels": COUNTS.sum(1) + 3}),
    ],
    "losses.inverse_log_weights": [((COUNTS,), {}), ((COUNTS,), {"offset": 1.1})],
    "losses.effective_number_weights": [((COUNTS,), {}), ((COUNTS,), {"beta": 0.9})],
    "losses.unet_weight_map": [
        ((OBJECTS,), {}),
        ((OBJECTS,), {"w0": 5.0, "sigma": 2.0, "class_weights": (1.0, 2.0), "everywhere": True}),
        ((np.arange(3)[:, None, None] == OBJECTS,), {}),
    ],
}
