"""Which pixels of a batch are of its images, and which only fill them up to one size."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def inside(
    size: Int[Array, "b 2"], shape: tuple[int, int], at: tuple[int, int] | None = None
) -> Bool[Array, "b h w"]:
    """Which pixels are of the image, and not of its padding.

    Args:
        size: height and width of each image, whose first pixel is the batch's.
        shape: height and width of the batch.
        at: of a map that covers the same area, of which a cell counts if its centre is of the
            image; None: `shape`.
    """
    rows, cols = (
        (jnp.arange(cells, dtype=jnp.float32)[None] + 0.5) * (pixels / cells)
        for cells, pixels in zip(at or shape, shape, strict=True)
    )
    ends = size.astype(jnp.float32)
    return (rows < ends[:, :1])[:, :, None] & (cols < ends[:, 1:])[:, None]
