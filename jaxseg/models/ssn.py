"""The feature networks of Superpixel Sampling Networks (Jampani et al., ECCV 2018).

Each takes `[B, H, W, 5]`, the scaled (y, x, L, a, b) of every pixel, and gives
`[B, H, W, num_features]`: the five that came in first, then the learned ones.

A `mask` `[B, H, W]` says which pixels are of the image, where images are padded at the right and at
the bottom: inside it the features are those of the image alone, since whatever reaches a
convolution from beyond is 0, as at a border.

Deviations from the released Caffe code:
    - weights start from He's normal distribution, not from N(0, 0.001²): batch norm makes the
      scale of all but the last layer irrelevant, and Adam leaves the flat start sooner. The last
      layer keeps a small start, so that step 0 is SSN_pix.
    - running statistics decay by 0.99 a step by default, not 0.999, for shorter schedules.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.layers import BatchNorm, max_pool_3x3, upsample
from jaxseg.models.network import network
from jaxseg.types import Network

NUM_INPUTS = 5
_SMALL = nn.initializers.normal(1e-3)


class _Deep(nn.Module):
    num_features: int
    width: int
    momentum: float
    dtype: DTypeLike | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 5"], *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w k"]:
        # Pixels that count at each scale. The pooling's own windows tell which node still sees one;
        # activations are never negative, so that 0 beyond the border hides behind any inside.
        masks = [mask] * 3
        if mask is not None and mask.ndim == 3:
            for i in (1, 2):
                nodes = max_pool_3x3(masks[i - 1][..., None].astype(jnp.float32))
                masks[i] = nodes[..., 0] > 0

        def inside(y, scale=0):
            mask = masks[scale]
            if mask is None or mask.ndim == 1:
                return y
            return jnp.where(mask[..., None], y, jnp.zeros((), y.dtype))

        def block(y, name, scale):
            y = nn.Conv(
                self.width,
                (3, 3),
                padding=1,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=name,
            )(y)
            norm = BatchNorm(self.momentum, affine=False, dtype=self.dtype, name=f"{name}_norm")
            y = nn.relu(norm(y, train=train, mask=masks[scale], axis_name=axis_name))
            return inside(y, scale)

        size = (x.shape[1], x.shape[2])
        full = block(block(inside(x), "conv1", 0), "conv2", 0)
        half = block(block(max_pool_3x3(full), "conv3", 1), "conv4", 1)
        quarter = block(block(max_pool_3x3(half), "conv5", 2), "conv6", 2)
        pyramid = [x.astype(full.dtype), full, upsample(half, 2, size), upsample(quarter, 4, size)]
        last = nn.Conv(
            self.num_features - NUM_INPUTS,
            (3, 3),
            padding=1,
            kernel_init=_SMALL,
            dtype=self.dtype,
            name="conv7",
        )
        learned = nn.relu(last(inside(jnp.concatenate(pyramid, axis=-1))))
        return jnp.concatenate([x, learned.astype(x.dtype)], axis=-1)


class _Linear(nn.Module):
    num_features: int
    kernel_size: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 5"], *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w k"]:
        size = (self.kernel_size, self.kernel_size)
        seen = x
        if mask is not None and mask.ndim == 3:
            seen = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
        learned = nn.Conv(
            self.num_features - NUM_INPUTS, size, padding="SAME", kernel_init=_SMALL, name="conv"
        )(seen)
        return jnp.concatenate([x, learned], axis=-1)


class _Pix(nn.Module):
    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 5"], *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w 5"]:
        return x


def deep(
    *,
    num_features: int = 20,
    width: int = 64,
    momentum: float = 0.99,
    dtype: DTypeLike | None = None,
) -> Network:
    """SSN_deep: seven 3×3 convolutions at three scales.

    Args:
        num_features: k of the paper, the five inputs included.
        width: channels of every layer but the last.
        momentum: of the running statistics.
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: unless num_features > 5.
    """
    _check(num_features)
    return network(_Deep(num_features, width, momentum, dtype))


def linear(*, num_features: int = 20, kernel_size: int = 1) -> Network:
    """SSN_linear: one convolution without activation; the paper leaves its size open.

    Raises:
        ValueError: unless num_features > 5.
    """
    _check(num_features)
    return network(_Linear(num_features, kernel_size))


def pix() -> Network:
    """SSN_pix: the inputs themselves; there is nothing to learn."""
    return network(_Pix())


def _check(num_features: int) -> None:
    if num_features <= NUM_INPUTS:
        raise ValueError(f"num_features={num_features}: {NUM_INPUTS} are the inputs, ask for more")
