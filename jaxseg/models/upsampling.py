"""Ways from a coarse map to a finer one, each as fast as the platform allows.

Beside these: `resize.resize_nearest` and `resize.resize_bilinear` to any size and in both
conventions, `resize.sub_pixel`, `pooling.max_unpool`, `convolution.ConvTranspose` of any kernel and
stride. Where the stride divides the kernel's size, every pixel of the output has the same number of
terms; where it does not, as for 3×3 at stride 2, their number alternates, which is seen as a
checkerboard (Odena, Dumoulin, Olah, Distill 2016; experiments/results/upsampling_checkerboard.png).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.resize import sub_pixel


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


def equal_pixels(kernel_init: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """For `ConvTranspose2x2`: the kernels of the four pixels begin equal.

    The output begins as a 1×1 convolution whose pixels are repeated, as that of `SubPixelConv`.
    """

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        return jnp.broadcast_to(kernel_init(key, (1, 1, *shape[2:]), dtype), tuple(shape))

    return init


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


class SubPixelConv(nn.Module):
    """Convolution to factor² times the channels, which become pixels (Shi et al., CVPR 2016).

    The kernels of the pixels that come from one place begin equal, so that the output begins as a
    convolution whose pixels are repeated, without a checkerboard (Aitken et al., 2017,
    arXiv:1707.02937).

    Attributes:
        features: channels of the output.
        factor: by which the sides grow.
        kernel_size: a side of the kernel, an odd number.
        use_bias: whether a bias is added.
        kernel_init: of the kernel `[k, k, c, features]` that is repeated.
        dtype: of the computation; None: that of the parameters and the input.
    """

    features: int
    factor: int = 2
    kernel_size: int = 3
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow k"]:
        """Upsamples by `factor`."""
        pixels = self.factor**2

        def repeated(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
            one = self.kernel_init(key, (*shape[:-1], shape[-1] // pixels), dtype)
            return jnp.repeat(one, pixels, axis=-1)

        conv = nn.Conv(
            self.features * pixels,
            (self.kernel_size, self.kernel_size),
            padding=self.kernel_size // 2,
            use_bias=self.use_bias,
            kernel_init=repeated,
            dtype=self.dtype,
            name="conv",
        )
        return sub_pixel(conv(x), self.factor)


def fixed_bilinear(
    x: Float[Array, "b h w c"], kernel_size: int, stride: int
) -> Float[Array, "b oh ow c"]:
    """The transposed convolution of each channel with the bilinear kernel, without padding.

    Sides become stride · (n - 1) + kernel_size, at most two pixels meeting in each; written as
    products with the two halves of the kernel, which neither it nor its gradient gathers.

    Raises:
        ValueError: unless stride ≤ kernel_size ≤ 2 · stride.
    """
    if not stride <= kernel_size <= 2 * stride:
        raise ValueError(f"kernel_size={kernel_size}: expected {stride} to {2 * stride}")
    factor = (kernel_size + 1) // 2
    center = (kernel_size - 1) / 2
    weights = np.maximum(1 - np.abs(np.arange(2 * stride) - center) / factor, 0)
    weights[kernel_size:] = 0
    for axis in (1, 2):
        nodes = x.shape[axis]
        begin, end = ([(0, 0)] * 4 for _ in range(2))
        begin[axis], end[axis] = (1, 0), (0, 1)
        shape = [1] * 5
        shape[axis + 1] = stride
        own, previous = (
            jnp.asarray(w, x.dtype).reshape(shape) for w in (weights[:stride], weights[stride:])
        )
        x = jnp.expand_dims(jnp.pad(x, end), axis + 1) * own + (
            jnp.expand_dims(jnp.pad(x, begin), axis + 1) * previous
        )
        x = x.reshape(*x.shape[:axis], (nodes + 1) * stride, *x.shape[axis + 2 :])
        x = x[(slice(None),) * axis + (slice(stride * (nodes - 1) + kernel_size),)]
    return x


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
