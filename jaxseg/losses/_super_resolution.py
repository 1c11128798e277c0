"""The loss that ties the two branches of DSRL (Wang et al., CVPR 2020)."""

import functools
from typing import Literal

import jax
from jaxtyping import Array, Float

from jaxseg.ops.affinity import affinity_distance


def feature_affinity(
    a: Float[Array, "b h w ca"], b: Float[Array, "b h w cb"], *, order: Literal[1, 2] = 1
) -> Float[Array, " b"]:
    """How differently two feature maps say which pixels are alike: L_fa of DSRL.

    1/N² Σ_ij |S^a_ij - S^b_ij|^order over all pairs of the N = h·w pixels, where S_ij is the cosine
    of the angle between the features of pixels i and j: (F_i/‖F_i‖₂)ᵀ (F_j/‖F_j‖₂). The paper has
    order 1. It first reduces both maps to an eighth per side, to save memory; here every pixel that
    is given counts, and no N x N matrix is held: in float32 an example takes at most 3 MiB beside a
    few copies of its features. See `ops.affinity.affinity_distance`, also for second derivatives.

    Args:
        a: features in any unit: their lengths do not matter. A feature of 0, as behind a ReLU, is
            like no other and gets no gradient.
        b: features of the same pixels; the number of channels may be another.
        order: 1 for absolute differences, 2 for squares, which take a hundredth of the time.

    Returns:
        One value per example, in [0, 2^order].

    Raises:
        ValueError: batch, height or width disagree or are 0, or another order.
    """
    if a.shape[:3] != b.shape[:3]:
        raise ValueError(f"features of shapes {a.shape} and {b.shape}: expected equal [B, h, w]")
    batch, height, width = a.shape[:3]
    rows = [x.reshape(batch, height * width, x.shape[-1]) for x in (a, b)]
    # The tiles of a batch are made together, and should fit a cache together.
    tile = 512 if batch <= 4 else 256
    distance = functools.partial(affinity_distance, order=order, normalize=True, tile=tile)
    return jax.vmap(distance)(*rows)
