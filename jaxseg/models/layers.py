"""Layers that Linen lacks, or that XLA's CPU backend is slow at in their usual form."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jaxseg.ops import collective


class BatchNorm(nn.Module):
    """Batch normalisation over the global batch, leaving padding out.

    Statistics are computed in float32 in two passes, from Σ w·x and Σ w over examples, pixels and
    `axis_name`, so that they do not depend on how the batch is spread or padded. The running
    variance is the biased one, as in Linen.
    """

    momentum: float = 0.99
    epsilon: float = 1e-5
    affine: bool = True
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *size c"],
        *,
        train: bool = False,
        mask: Shaped[Array, " b"] | Shaped[Array, "b *size"] | None = None,
        axis_name: str | None = None,
    ) -> Float[Array, "b *size c"]:
        """Normalises; `mask` is true, or 1, where an example `[B]` or a pixel `[B, ...]` counts."""
        channels = x.shape[-1]
        running_mean = self.variable(
            "batch_stats", "mean", lambda: jnp.zeros((channels,), jnp.float32)
        )
        running_var = self.variable(
            "batch_stats", "var", lambda: jnp.ones((channels,), jnp.float32)
        )
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        rank_1 = (1,) * (x.ndim - 1)
        if train:
            axes = tuple(range(x.ndim - 1))
            if mask is None:
                mask = jnp.ones(x.shape[:1])
            weight = mask.astype(wide.dtype).reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
            counts = math.prod(x.shape[mask.ndim : -1])
            total = collective.psum(jnp.sum(weight) * counts, axis_name)
            total = jnp.maximum(total, 1)
            mean = collective.psum(jnp.sum(wide * weight, axes), axis_name) / total
            centered = wide - mean.reshape(*rank_1, channels)
            var = collective.psum(jnp.sum(centered**2 * weight, axes), axis_name) / total
            if not self.is_initializing():
                keep = self.momentum
                for running, new in ((running_mean, mean), (running_var, var)):
                    old = running.value
                    running.value = (keep * old + (1 - keep) * new).astype(old.dtype)
        else:
            mean, var = running_mean.value, running_var.value
            centered = wide - mean.reshape(*rank_1, channels).astype(wide.dtype)
        scale = jax.lax.rsqrt(var + self.epsilon)
        if self.affine:
            scale *= self.param("scale", nn.initializers.ones, (channels,))
        y = centered * scale.reshape(*rank_1, channels).astype(wide.dtype)
        if self.affine:
            bias = self.param("bias", nn.initializers.zeros, (channels,))
            y += bias.reshape(*rank_1, channels)
        return y.astype(self.dtype or x.dtype)


def max_pool_3x3(x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow c"]:
    """Max pooling 3×3 with stride 2 and padding 1; a last window that starts inside counts.

    The output has ceil((size - 1) / 2) + 1 nodes (Caffe's rounding). Written as maxima of strided
    slices: XLA's CPU gradient of a window reduction is an order of magnitude slower. At a tie the
    gradient is shared.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        nodes = size // 2 + 1
        padding = [(0, 0)] * 4
        padding[axis] = (1, 2 * nodes - size)
        padded = jnp.pad(x, padding, constant_values=-jnp.inf)
        a, b, c = (
            jax.lax.slice_in_dim(padded, k, k + 2 * nodes - 1, stride=2, axis=axis)
            for k in range(3)
        )
        x = jnp.maximum(jnp.maximum(a, b), c)
    return x


def upsample(
    x: Float[Array, "b h w c"], factor: int, size: tuple[int, int]
) -> Float[Array, "b oh ow c"]:
    """Bilinear interpolation at steps of exactly 1 / factor, cropped to `size`.

    Corners are aligned where size = factor · (h - 1) + 1. Written as interpolation between
    slices: no gather, and a gradient as cheap as the value.
    """
    for axis in (1, 2):
        nodes, wanted = x.shape[axis], size[axis - 1]
        if wanted > factor * (nodes - 1) + 1:
            raise ValueError(f"{nodes} nodes give at most {factor * (nodes - 1) + 1}, not {wanted}")
        left = jax.lax.slice_in_dim(x, 0, nodes - 1, axis=axis)
        right = jax.lax.slice_in_dim(x, 1, nodes, axis=axis)
        between = [left + (right - left) * (k / factor) for k in range(factor)]
        stacked = jnp.stack(between, axis=axis + 1)
        shape = list(x.shape)
        shape[axis] = factor * (nodes - 1)
        last = jax.lax.slice_in_dim(x, nodes - 1, nodes, axis=axis)
        whole = jnp.concatenate([stacked.reshape(shape), last], axis=axis)
        x = jax.lax.slice_in_dim(whole, 0, wanted, axis=axis)
    return x
