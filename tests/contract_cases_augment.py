"""Cases of the transforms that a loss undoes, for `test_contracts`."""

import numpy as np

RNG = np.random.default_rng(0)
MAPS = RNG.random((5, 6, 2), np.float32)
# No variant of it, 1, 0.9 and 0.8 times, comes near a centre, where the slopes differ.
TURNED = np.array([[0.81, -0.31, 0.073], [0.23, 0.87, -0.041]], np.float32)
FLIP = np.array([[-1, 0, 0], [0, 1, 0]], np.float32)

CASES: dict[str, list[tuple]] = {  # name -> (arguments, options, gradient)
    "ops.augment.warp_affine": [
        ((MAPS, TURNED), {}, "exact"),
        ((MAPS, FLIP), {}, "finite"),
    ],
}
