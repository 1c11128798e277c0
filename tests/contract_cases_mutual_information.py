"""Cases of mutual information for `test_contracts`."""

import numpy as np

RNG = np.random.default_rng(0)
BATCH, SIZE, CLASSES = 5, (6, 5), 3
NUMBER = np.float32(1.3)  # a traced scalar


def probabilities(*shape):
    x = np.exp(RNG.standard_normal((*shape, CLASSES)))
    return (x / x.sum(-1, keepdims=True)).astype(np.float32)


ROWS = probabilities(BATCH), probabilities(BATCH)
MAPS = probabilities(BATCH, *SIZE), probabilities(BATCH, *SIZE)
WEIGHT = RNG.random(BATCH).astype(np.float32)
MASK = RNG.random((BATCH, *SIZE)) < 0.8
AFFINE = np.array([[-1, 0, 0], [0, 1, 0]]) + RNG.uniform(-0.1, 0.1, (BATCH, 2, 3))
AFFINE = AFFINE.astype(np.float32)
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[np.arange(BATCH) % CLASSES]

CASES = {  # name -> (arguments, options, gradient)
    "losses.mutual_information": [
        (ROWS, {}, "exact"),
        (ROWS, {"lamb": 1.5}, "exact"),
        (ROWS, {"lamb": NUMBER, "weight": WEIGHT}, "exact"),
        # Where a class has no example, a logarithm has no derivative.
        ((ONE_HOT, ONE_HOT), {}, "finite"),
    ],
    "losses.mutual_information_2d": [
        (MAPS, {"displacement": 2, "method": "fft", "collapsed": False}, "exact"),
        (MAPS, {"displacement": 2, "method": "conv", "mask": MASK}, "exact"),
        (MAPS, {"displacement": 1, "method": "scan", "affine": AFFINE}, "exact"),
        (
            MAPS,
            {
                **{"displacement": 2, "collapsed": True, "mask": MASK, "affine": AFFINE},
                **{"lamb": NUMBER, "weight": WEIGHT},
            },
            "exact",
        ),
        (MAPS, {"displacement": 1, "mask": np.zeros_like(MASK)}, "exact"),
    ],
}
COUPLED = set(CASES)
"""Losses that take the batch as one: a scalar, with `axis_name` (tried beside eight devices)."""
