"""Cases of the heatmaps of keypoints, for `test_contracts`."""

import numpy as np

RNG = np.random.default_rng(0)
SHAPE, KINDS = (8, 7), 3
POINTS = (RNG.random((5, 2)) * np.array(SHAPE)).astype(np.float32)
OF_KINDS = np.array([0, 2, 2, -1, 0], np.int32)
HEATMAPS = RNG.standard_normal((*SHAPE, KINDS)).astype(np.float32)
NUMBER = np.float32(0.3)  # a traced scalar
SIZES = {"shape": SHAPE, "num_kinds": KINDS}

CASES = {  # name -> (arguments, options, gradient)
    "ops.heatmap.gaussian_heatmaps": [
        ((POINTS, OF_KINDS), {**SIZES, "sigma": 1.5}, "exact"),
        ((POINTS, OF_KINDS), {**SIZES, "sigma": 3 * NUMBER}, "exact"),
        ((POINTS, np.full(5, -1, np.int32)), {**SIZES, "sigma": 1.5}, "exact"),
    ],
    "ops.heatmap.heatmap_peaks": [
        ((HEATMAPS,), {"max_points": 4}, "exact"),
        ((HEATMAPS,), {"max_points": 40, "window": 5, "threshold": NUMBER}, "exact"),
        # Where nothing is a peak, the smallest change makes one: no derivative there.
        ((np.zeros((*SHAPE, KINDS), np.float32),), {"max_points": 2, "threshold": 0.0}, "finite"),
    ],
    "ops.heatmap.heatmap_argmax": [
        ((HEATMAPS,), {}, "exact"),
        ((np.zeros((*SHAPE, KINDS), np.float32),), {}, "finite"),
    ],
}
