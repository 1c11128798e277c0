"""Cases of feature affinity for `test_contracts`."""

import numpy as np

RNG = np.random.default_rng(0)
BATCH, SIZE = 5, (3, 5)

ROWS_A = RNG.standard_normal((21, 3), np.float32)
ROWS_B = RNG.standard_normal((21, 4), np.float32)
NEAR = ROWS_A + np.float32(1e-3) * ROWS_B[:, :3]
MAPS_A = RNG.standard_normal((BATCH, *SIZE, 3), np.float32)
MAPS_B = RNG.standard_normal((BATCH, *SIZE, 4), np.float32)
SPARSE = np.where(MAPS_A[..., :1] < 0, np.float32(0), MAPS_A)

CASES = {  # name -> (arguments, options, gradient)
    "ops.affinity.affinity_distance": [
        ((ROWS_A, ROWS_B), {"order": 1, "tile": 8, "normalize": True}, "exact"),
        ((ROWS_A, NEAR), {"order": 2, "normalize": False}, "exact"),
    ],
    "losses.feature_affinity": [
        ((MAPS_A, MAPS_B), {"order": 1}, "exact"),
        ((MAPS_B, MAPS_A), {"order": 2}, "exact"),
        # At 0 a direction has no derivative.
        ((SPARSE, MAPS_B), {}, "finite"),
    ],
}
