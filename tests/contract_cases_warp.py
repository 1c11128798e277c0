"""Cases of the boundaries and of the warp, for `test_contracts`."""

import numpy as np

RNG = np.random.default_rng(0)
SIZE, NODES = (9, 8), (4, 5)

LABELS = RNG.integers(-1, 3, SIZE).astype(np.int32)
IGNORED = np.full(SIZE, -1, np.int32)
MASK = RNG.random(SIZE) < 0.2
NOTHING = np.zeros(SIZE, bool)
IMAGE = RNG.random((*SIZE, 3), np.float32)
VALUES = RNG.standard_normal((*NODES, 3), np.float32)
EVEN = np.stack(
    np.meshgrid(*(np.linspace(0, 1, n, dtype=np.float32) for n in NODES), indexing="ij"), -1
)
# The variants of a case scale it, so that they sample only a part of the image.
COORDS = EVEN + np.float32(0.04) * RNG.standard_normal(EVEN.shape, np.float32)
FOLDED = RNG.random(EVEN.shape, np.float32)
INSIDE = RNG.random((*SIZE, 2), np.float32)
NUMBER = np.float32(0.7)  # a traced scalar

CASES: dict[str, list[tuple]] = {  # name -> (arguments, options, gradient)
    "ops.boundary.boundary_map": [
        ((LABELS,), {}, "none"),
        ((LABELS,), {"target_classes": (0, 2)}, "none"),
        ((IGNORED,), {}, "none"),
    ],
    "ops.boundary.nearest_boundary": [
        ((MASK, NODES), {}, "none"),
        ((NOTHING, (12, 3)), {}, "none"),
    ],
    "ops.warp.solve_sampling": [
        ((FOLDED,), {"smoothness": 0.5}, "exact"),
        ((FOLDED,), {"smoothness": NUMBER}, "exact"),
    ],
    "ops.warp.sampling_targets": [
        ((LABELS, NODES), {}, "none"),
        ((LABELS, NODES), {"smoothness": NUMBER, "target_classes": (1,)}, "exact"),
    ],
    "ops.warp.resize_sampling": [((COORDS, (6, 3)), {}, "exact")],
    "ops.warp.project_covering": [((COORDS,), {}, "exact")],
    "ops.warp.fold_fraction": [((FOLDED,), {}, "finite")],
    "ops.warp.make_fold_free": [
        ((FOLDED,), {}, "finite"),
        ((COORDS,), {"margin": 0.1, "per_region": True}, "finite"),
    ],
    "ops.warp.sample": [
        ((IMAGE, COORDS), {}, "exact"),
        ((IMAGE[..., 0], COORDS), {"antialias": True}, "exact"),
        ((LABELS, EVEN), {"order": 0}, "none"),
    ],
    # Pixels that no cell covers are clipped, and have no gradient.
    "ops.warp.invert_sampling": [
        ((COORDS, SIZE), {}, "finite"),
        ((COORDS, SIZE), {"method": "patches"}, "finite"),
    ],
    "ops.warp.unwarp": [
        ((VALUES, COORDS, SIZE), {"mode": "triangles"}, "finite"),
        ((VALUES, COORDS, SIZE), {"inverse": INSIDE}, "exact"),
        ((VALUES, COORDS, SIZE), {"argmax": True, "inverse": INSIDE}, "none"),
    ],
}
HOST: dict[str, list[tuple]] = {"ops.warp.uniform_sampling": [((NODES,), {})]}
