"""Ways from a coarse map to a finer one, each as fast as the platform allows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class ConvTranspose2x2(nn.Module):
    """Transposed convolution 2×2 with stride 2: every pixel becomes four.

    Parameters and results are those of `nn.ConvTranspose(features, (2, 2), strides=(2, 2))`: with
    kernel and stride equal no two windows overlap, so that it leaves no checkerboard. On the CPU it
    is computed as a product and a rearrangement, since XLA's gradient of the native form is tens of
    times slower there.
    """

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow k"]:
        """Upsamples by 2."""
        kernel = self.param("kernel", self.kernel_init, (2, 2, x.shape[-1], self.features))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        y = jax.lax.platform_dependent(x, kernel, cpu=_as_product, default=_native)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y += bias.astype(y.dtype).reshape(1, 1, 1, -1)
        return y


def _native(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_transpose(
        x, kernel, strides=(2, 2), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _as_product(x: Array, kernel: Array) -> Array:
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    # The gradient-of-a-convolution convention of conv_transpose reads the kernel backwards.
    flat = jnp.transpose(kernel[::-1, ::-1], (2, 0, 1, 3)).reshape(channels, 4 * features)
    four = (x.reshape(-1, channels) @ flat).reshape(batch, height, width, 2, 2, features)
    return jnp.transpose(four, (0, 1, 3, 2, 4, 5)).reshape(batch, 2 * height, 2 * width, features)


def upsample_bilinear_2x(x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow c"]:
    """Doubles height and width bilinearly between pixel centres, the border repeated.

    What PyTorch calls align_corners=False and `jax.image.resize` "bilinear": each new pixel is
    3/4 of the pixel that it lies in and 1/4 of the nearer neighbour. Written with slices, so that
    neither it nor its gradient gathers.
    """
    for axis in (1, 2):
        length = x.shape[axis]
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, length - 1, length, axis=axis)
        before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, length - 1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, length, axis=axis), last], axis)
        pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])
    return x
