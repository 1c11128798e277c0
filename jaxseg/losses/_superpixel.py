"""The losses of Superpixel Sampling Networks (Jampani et al., ECCV 2018, section 3.3)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxseg.ops import _blocks
from jaxseg.ops.color import at_least_float32
from jaxseg.ops.slic import pool, unpool

_EPSILON = 1e-10
_MIN_MASS = 1e-3


def reconstruction(
    affinity: Float[Array, "b h w 9"],
    target: Float[Array, "b h w c"] | Integer[Array, "b h w"],
    grid: tuple[int, int],
    *,
    num_labels: int = 50,
    ignore_label: int = -1,
) -> Float[Array, " b"]:
    """How well superpixel means, spread back over the pixels, tell a property of each pixel.

    R* = Q̃ Q̂ᵀ R (eq. 5): Q̂ averages R over superpixels, Q̃ mixes the means of a pixel's nine
    candidates. For labels R is one-hot and the loss is the cross-entropy -log R*(label) (eq. 6);
    for a real-valued map, such as flow, it is the L1 distance, summed over channels.

    Args:
        affinity: as `ops.slic.soft_slic` gives it.
        target: labels below `num_labels`, of any integer type; or a map in any unit, where a
            pixel with a NaN is ignored.
        grid: rows and columns of superpixels.
        num_labels: channels of the one-hot code. A label above is ignored.
        ignore_label: pixels that count neither in the means nor in the loss.

    Returns:
        The mean over the pixels that count; 0 where none does.
    """
    affinity = at_least_float32(affinity)
    if jnp.issubdtype(target.dtype, jnp.floating):
        return jax.vmap(lambda q, r: _real(q, r, grid))(affinity, target)
    target = target.astype(jnp.int32)
    counts = (target != ignore_label) & (target >= 0) & (target < num_labels)
    return jax.vmap(lambda q, label, c: _labels(q, label, c, grid, num_labels))(
        affinity, target, counts
    )


def _labels(affinity, label, counts, grid, num_labels):
    """In blocks throughout: maps of `num_labels` channels would cost more than the clustering."""
    blocks = _blocks.layout(*label.shape, grid, "floor")
    q = _blocks.to_blocks(affinity * counts[..., None].astype(affinity.dtype), blocks)
    inside = _blocks.to_blocks(jnp.where(counts, label, -1)[..., None] + 1, blocks) - 1
    one_hot = (inside == jnp.arange(num_labels, dtype=jnp.int32)[None, None, None]).astype(
        affinity.dtype
    )
    sums = _blocks.neighbors_transpose(_blocks.matmul(q.mT, one_hot))
    mass = _blocks.neighbors_transpose(jnp.sum(q, axis=2)[..., None])
    means = sums / jnp.maximum(mass, _MIN_MASS)
    # What each of the nine candidates says of the pixel's own label.
    likelihood = _blocks.matmul(one_hot, _blocks.neighbors(means).mT)
    told = jnp.sum(likelihood * q, axis=-1)
    loss = jnp.where(inside[..., 0] >= 0, -jnp.log(told + _EPSILON), 0)
    return jnp.sum(loss) / jnp.maximum(jnp.sum(counts), 1).astype(loss.dtype)


def _real(affinity, target, grid):
    known = ~jnp.any(jnp.isnan(target), axis=-1)
    target = jnp.where(known[..., None], target, jnp.zeros_like(target)).astype(affinity.dtype)
    counts = known.astype(affinity.dtype)
    means = pool(target, affinity * counts[..., None], grid)
    distance = jnp.sum(jnp.abs(unpool(means, affinity, grid) - target), axis=-1)
    return jnp.sum(distance * counts) / jnp.maximum(jnp.sum(counts), 1)


def compactness(
    affinity: Float[Array, "b h w 9"],
    grid: tuple[int, int],
    *,
    position_scale: float | Float[Array, ""] = 1.0,
) -> Float[Array, " b"]:
    """How far pixels lie from the centre of their superpixel (eq. 7), as the released code has it.

    ½ Σ ‖γ·(y, x) - centre‖² over the pixels: centres are soft means of position, each pixel
    takes that of its likeliest superpixel. It is a sum, in scaled units; ports that take a mean in
    pixels differ by three orders of magnitude at equal weight.

    Args:
        affinity: as `ops.slic.soft_slic` gives it.
        grid: rows and columns of superpixels.
        position_scale: γ, from pixels to the units of the loss.
    """
    affinity = at_least_float32(affinity)
    height, width = affinity.shape[1:3]
    dtype = affinity.dtype
    scale = jnp.asarray(position_scale, dtype)
    rows = jnp.broadcast_to(jnp.arange(height, dtype=dtype)[:, None], (height, width))
    cols = jnp.broadcast_to(jnp.arange(width, dtype=dtype)[None, :], (height, width))
    position = jnp.stack([rows, cols], axis=-1) * scale

    def one(q):
        centers = unpool(pool(position, q, grid), q, grid, hard=True)
        return jnp.sum((position - centers) ** 2) / 2

    return jax.vmap(one)(affinity)
