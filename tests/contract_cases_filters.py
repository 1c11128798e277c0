"""Cases of the filters, for `test_contracts`."""

import numpy as np

RNG = np.random.default_rng(0)

CASES: dict[str, list[tuple]] = {  # name -> (arguments, options, gradient)
    "ops.filters.sobel": [
        ((RNG.random((8, 7, 3), np.float32),), {}, "exact"),
        ((RNG.random((1, 2, 1), np.float32),), {}, "exact"),
    ],
}
