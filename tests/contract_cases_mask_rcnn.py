"""Cases of the losses of detection, for `test_contracts`."""

import numpy as np

RNG = np.random.default_rng(0)
BATCH = 5
LOGITS = RNG.standard_normal((BATCH, 6)).astype(np.float32)
LABELS = RNG.integers(-1, 2, (BATCH, 6)).astype(np.int32)
LABELS[1] = -1
DELTAS, TARGETS = RNG.standard_normal((2, BATCH, 6, 4)).astype(np.float32)
MASKS = RNG.standard_normal((BATCH, 3, 4, 4)).astype(np.float32)
COVERED = RNG.random((BATCH, 3, 4, 4)).astype(np.float32)
VALID = RNG.random((BATCH, 3)) < 0.6
VALID[2] = False
BETA = np.float32(0.4)  # a traced scalar

CASES = {  # name -> (arguments, options, gradient)
    "losses.sampled_binary_cross_entropy": [
        ((LOGITS, LABELS), {}, "exact"),
        ((LOGITS, LABELS), {"num_samples": 8}, "exact"),
    ],
    "losses.box_regression": [
        ((DELTAS, TARGETS, LABELS), {}, "exact"),
        ((DELTAS, TARGETS, LABELS), {"num_samples": 7, "beta": BETA}, "exact"),
    ],
    "losses.mask_binary_cross_entropy": [((MASKS, COVERED, VALID), {}, "exact")],
}
