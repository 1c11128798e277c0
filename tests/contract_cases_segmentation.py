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

WEIGHTS = {"class_weights": CLASS_WEIGHTS, "pixel_weights": PIXEL_WEIGHTS}

CASES = {  # name -> (arguments, options, gradient)
    "losses.cross_entropy": [
        ((LOGITS, LABELS), {}, "exact"),
        ((LOGITS, LABELS), {"ignore_label": 2, **WEIGHTS}, "exact"),
        ((LOGITS, NO_LABELS), WEIGHTS, "exact"),
        ((LOGITS, SOFT), WEIGHTS, "exact"),
        # By its own probability an ignored pixel begins to count: no derivative there.
        ((LOGITS, HALF_SOFT), {}, "finite"),
    ],
}
HOST = {
    "losses.median_frequency_weights": [
        ((COUNTS,), {}),
        ((COUNTS,), {"image_pixels": COUNTS.sum(1) + 3}),
    ],
}
