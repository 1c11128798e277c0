"""Cases of embeddings, their kernels, losses and clusters, for `test_contracts`."""

import numpy as np

RNG = np.random.default_rng(0)
BATCH, SIZE = 5, (4, 3)
NUMBER = np.float32(0.7)  # a traced scalar


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def mixing(features, coordinates):
    """Another f than the sum."""
    return features[..., :2] * coordinates


FEATURES, OTHERS = floats(*SIZE, 3), floats(3)
LOOKS, PLACES = floats(*SIZE, 3), floats(*SIZE, 2)
SCORES, MASK = floats(*SIZE), RNG.random(SIZE) < 0.7
POINTS, POINT_SCORES, POINT_MASK = floats(20, 3), floats(20), RNG.random(20) < 0.8
MAPS = floats(BATCH, *SIZE, 3)
MASKS = RNG.random((BATCH, 4, *SIZE)) < 0.4
VALID = np.array([[True] * 4, [True, False, True, True], [False] * 4, [True] * 4, [True] * 4])
ONE = np.zeros_like(MASKS)
ONE[:, 0, 0, 0] = True
LOG_P = -np.abs(floats(BATCH, 4, *SIZE)) - np.float32(0.01)
SOFT = RNG.random(LOG_P.shape, np.float32)
SIGMA = {"kind": "laplacian"}, {"kind": "gaussian"}

CASES = {  # name -> (arguments, options, gradient)
    "ops.affinity.add_coordinates": [
        ((FEATURES,), {"scale": NUMBER, "stride": 4}, "exact"),
        ((FEATURES,), {"mixing": mixing}, "exact"),
    ],
    "ops.affinity.log_steered_kernel": [
        ((FEATURES, OTHERS, NUMBER), SIGMA[0], "exact"),
        ((FEATURES, LOOKS, 2.0), SIGMA[1], "exact"),
        # At a distance of 0, where the Laplacian has no derivative.
        ((FEATURES, FEATURES, NUMBER), SIGMA[0], "finite"),
    ],
    "ops.affinity.log_bilateral_kernel": [
        ((FEATURES, OTHERS, PLACES, PLACES[0, 0], NUMBER, 2.0), {}, "exact"),
    ],
    "ops.affinity.seed_embedding": [
        ((SCORES, FEATURES), {"mask": MASK, "hard": False}, "exact"),
        ((SCORES, FEATURES), {"mask": MASK, "hard": True}, "exact"),
    ],
    "ops.affinity.steer_scores": [
        ((SCORES, FEATURES, OTHERS, NUMBER), options, "exact") for options in SIGMA
    ],
    "ops.cluster.grow_instances": [
        (
            (POINTS, POINT_SCORES),
            {
                "radius": 2 * NUMBER,
                "max_instances": 6,
                "min_score": NUMBER,
                "min_pixels": np.int32(2),
                "min_new": NUMBER / 2,
                "mask": POINT_MASK,
                "assign": "nearest",
            },
            "none",
        ),
        ((POINTS, POINT_SCORES), {"radius": 1.0, "max_instances": 3, "assign": "radius"}, "none"),
    ],
    "ops.cluster.mean_shift": [
        (
            (POINTS,),
            {
                "bandwidth": 2 * NUMBER,
                "max_clusters": 12,
                "num_seeds": 10,
                "num_iters": 7,
                "mask": POINT_MASK,
            },
            "none",
        ),
    ],
    # The key is made of the first number.
    "ops.cluster.kmeans": [
        ((np.uint32(3), POINTS, 4), {"mask": POINT_MASK, "num_starts": 2, "num_iters": 5}, "none")
    ],
    "losses.instance_embedding": [
        ((MAPS, MASKS, VALID), {"repulsion": NUMBER, "margin": 3 * NUMBER}, "exact"),
        # Every pixel is the mean of its object.
        ((MAPS, ONE, VALID), {"repulsion": 0.5, "margin": 2.0}, "finite"),
    ],
    "losses.binary_cross_entropy_from_log": [
        ((LOG_P, SOFT), {"weights": SOFT[:, :, 0, 0]}, "exact"),
    ],
}
