"""Superpixels as a layer: a feature map averaged inside superpixels, which are learned with it.

Pixels are clustered by the differentiable SLIC of Jampani et al. ("Superpixel Sampling Networks",
ECCV 2018) and features spread inside the clusters, as that paper does in its section 4.2 with the
bilateral inceptions of Gadde et al. (ECCV 2016). Those mix a superpixel's mean with the means of
others that are near and alike; here a pixel gets the means of its own candidates alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.ops.slic import grid_shape, pool, soft_slic, unpool


def superpixel_smooth(
    features: Float[Array, "b h w c"],
    guide: Float[Array, "b h w k"],
    grid: tuple[int, int],
    *,
    num_iters: int = 5,
) -> Float[Array, "b h w c"]:
    """Averages features inside soft superpixels of a guide and spreads the means back.

    The gradient flows to the features, and through the clustering to the guide.

    Args:
        features: what is averaged.
        guide: what is clustered, scaled so that Euclidean distance means likeness (such as
            `methods.ssn.input_features`).
        grid: rows and columns of superpixels.
        num_iters: associations of `ops.slic.soft_slic`.

    Returns:
        At least float32.
    """

    def one(values: Array, pixels: Array) -> Array:
        affinity = soft_slic(pixels, grid, num_iters=num_iters).affinity
        return unpool(pool(values, affinity, grid), affinity, grid)

    return jax.vmap(one)(features, guide)


class SuperpixelPool(nn.Module):
    """Features f become f + W·(pooled f - f), with W 0 at first.

    At step 0 a network is therefore what it is without the layer; W = 1 replaces the features by
    their means. A guide of more pixels than the features is averaged over whole blocks of them.

    Attributes:
        num_superpixels: wanted in an image, see `ops.slic.grid_shape`.
        num_iters: associations of the clustering.
        num_learned: channels that a 1×1 convolution of the features adds to the guide, so that the
            network says what belongs together; 0: none.
        dtype: of the convolutions; the clustering is computed in float32.
    """

    num_superpixels: int
    num_iters: int = 5
    num_learned: int = 0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], guide: Float[Array, "b gh gw k"]
    ) -> Float[Array, "b h w c"]:
        """Mixes; raises ValueError unless the guide's size is a multiple of the features'."""
        grid = grid_shape(guide.shape[1], guide.shape[2], self.num_superpixels)
        guide = _average_blocks(guide, features.shape[1], features.shape[2])
        if self.num_learned:
            # Small at first, as in SSN, so that colour and position lead.
            learned = nn.Conv(
                self.num_learned,
                (1, 1),
                kernel_init=nn.initializers.normal(1e-3),
                dtype=self.dtype,
                name="guide",
            )(features)
            guide = jnp.concatenate([guide, learned.astype(guide.dtype)], axis=-1)
        smooth = superpixel_smooth(features, guide, grid, num_iters=self.num_iters)
        mix = nn.Conv(
            features.shape[-1],
            (1, 1),
            use_bias=False,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="mix",
        )
        return features + mix(smooth.astype(features.dtype) - features)


def _average_blocks(x: Float[Array, "b h w c"], height: int, width: int) -> Array:
    batch, rows, cols, channels = x.shape
    if rows % height or cols % width:
        raise ValueError(
            f"guide of {rows}x{cols} pixels: expected a multiple of the features' {height}x{width}"
        )
    blocks = (batch, height, rows // height, width, cols // width, channels)
    return jnp.mean(x.reshape(blocks), axis=(2, 4))
