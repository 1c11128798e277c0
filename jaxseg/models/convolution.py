"""Convolutions that XLA's CPU backend is slow at, in forms that are fast there.

Depthwise, grouped and transposed convolutions have the parameters and the results of Linen's
layers. Off the CPU they are the native operation; on it they are written as sums of shifted slices,
as products, or as ordinary convolutions, which the backend knows how to differentiate.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.channelwise import channelwise

Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]
Pads = tuple[tuple[int, int], tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


class _Geometry(NamedTuple):
    groups: int
    strides: tuple[int, int]
    dilation: tuple[int, int]
    pads: Pads


class GroupedConv(nn.Module):
    """Convolution over groups of channels.

    Parameters and results are those of `nn.Conv(..., feature_group_count=groups)`; on a CPU it has
    gradients in reverse mode alone.

    Attributes:
        features: channels of the output, a multiple of `groups`.
        kernel_size: (height, width).
        groups: into how many equal parts the channels are divided.
        strides: one number, or one per axis.
        kernel_dilation: likewise.
        padding: "SAME", "VALID", a number, one per axis, or pairs (before, after).
        use_bias: whether a bias is added.
        kernel_init: of the kernel `[kh, kw, c / groups, features]`.
        dtype: of the computation; None: that of the parameters and the input.

    Raises:
        ValueError: when called: the groups do not divide the channels, or an unknown padding.
    """

    features: int
    kernel_size: Sequence[int]
    groups: int = 1
    strides: int | Sequence[int] = 1
    kernel_dilation: int | Sequence[int] = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow k"]:
        """Convolves."""
        return _convolve(self, x, self.groups)


class DepthwiseConv(nn.Module):
    """Convolution of every channel by itself: `GroupedConv` with as many groups as channels.

    Attributes: see `GroupedConv`; `features` is a multiple of the channels, None: as many.
    """

    features: int | None
    kernel_size: Sequence[int]
    strides: int | Sequence[int] = 1
    kernel_dilation: int | Sequence[int] = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow k"]:
        """Convolves."""
        return _convolve(self, x, x.shape[-1])


class ConvTranspose(nn.Module):
    """Transposed convolution: every pixel adds the kernel, times itself, at `strides` steps.

    Parameters and results are those of `nn.ConvTranspose` (`transpose_kernel=False`).

    Attributes:
        features: channels of the output.
        kernel_size: (height, width).
        strides: one number, or one per axis.
        padding: "SAME", "VALID" or pairs (before, after) as `jax.lax.conv_transpose` has them:
            PyTorch's padding p and output padding o are (k - 1 - p, k - 1 - p + o).
        use_bias: whether a bias is added.
        kernel_init: of the kernel `[kh, kw, c, features]`.
        dtype: of the computation; None: that of the parameters and the input.
    """

    features: int
    kernel_size: Sequence[int]
    strides: int | Sequence[int] = 1
    padding: str | Sequence[tuple[int, int]] = "SAME"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow k"]:
        """Upsamples."""
        size = _pair(self.kernel_size)
        kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1], self.features))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        strides = _pair(self.strides)
        native = partial(
            jax.lax.conv_transpose, strides=strides, padding=self.padding, dimension_numbers=_LAYOUT
        )
        sizes = jax.eval_shape(native, x, kernel).shape[1:3]
        if isinstance(self.padding, str):
            before = [_first_padding(self.padding, *p) for p in zip(size, strides, strict=True)]
        else:
            before = [pair[0] for pair in self.padding]
        cut = tuple((k - 1 - b, n) for k, b, n in zip(size, before, sizes, strict=True))
        phases = partial(_transposed_by_phases, strides=strides, cut=cut)
        return _with_bias(self, jax.lax.platform_dependent(x, kernel, cpu=phases, default=native))


def _convolve(module: GroupedConv | DepthwiseConv, x: Array, groups: int) -> Array:
    channels, features = x.shape[-1], module.features or x.shape[-1]
    if groups < 1 or channels % groups or features % groups:
        raise ValueError(
            f"{channels} to {features} channels in {groups} groups: expected multiples"
        )
    size = _pair(module.kernel_size)
    shape = (*size, channels // groups, features)
    kernel = module.param("kernel", module.kernel_init, shape)
    x, kernel = promote_dtype(x, kernel, dtype=module.dtype)
    strides, dilation = _pair(module.strides), _pair(module.kernel_dilation)
    pads = _explicit(module.padding, (x.shape[1], x.shape[2]), size, strides, dilation)
    how = _Geometry(groups, strides, dilation, pads)
    native = partial(_native, how=how)
    on_cpu = partial(_form(kernel, groups), how=how)
    return _with_bias(module, jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=native))


def _form(kernel: Array, groups: int) -> Callable[..., Array]:
    """The form that was measured to be the fastest on a CPU, value and gradient together."""
    height, width, each, _ = kernel.shape
    if groups == 1:
        return _native
    if each == 1 or (each <= 8 and height * width > 1):
        return _shifted
    return _split if groups <= 8 else _block_diagonal


def _native(x: Array, kernel: Array, *, how: _Geometry) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        how.strides,
        how.pads,
        rhs_dilation=how.dilation,
        dimension_numbers=_LAYOUT,
        feature_group_count=how.groups,
    )


def _shifted(x: Array, kernel: Array, *, how: _Geometry) -> Array:
    """A sum over taps, and over the channels within a group, of shifted slices."""
    height, width, each, features = kernel.shape
    wide = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), *how.pads, (0, 0)))
    # What every feature sees of its group: for all features the first channel, then the next.
    seen = jnp.swapaxes(padded.reshape(*padded.shape[:3], how.groups, each), -1, -2)
    seen = jnp.repeat(seen, features // how.groups, axis=-1)
    seen = seen.reshape(*padded.shape[:3], each * features).astype(wide)
    taps = kernel.reshape(height, width, each * features).astype(wide)
    y = channelwise(seen, taps, how.strides, how.dilation)
    parts = [y[..., c * features : (c + 1) * features] for c in range(each)]
    return sum(parts[1:], parts[0]).astype(x.dtype)


def _split(x: Array, kernel: Array, *, how: _Geometry) -> Array:
    """A convolution for each group, or where it is 1×1 one product that has groups as a batch."""
    if _is_pointwise(kernel, how):
        x = x[:, :: how.strides[0], :: how.strides[1]]
        place, features = x.shape[:3], kernel.shape[-1]
        each = x.reshape(-1, how.groups, kernel.shape[2])
        matrices = kernel.reshape(kernel.shape[2], how.groups, features // how.groups)
        product = jax.lax.dot_general(each, matrices, (((2,), (0,)), ((1,), (1,))))
        return jnp.swapaxes(product, 0, 1).reshape(*place, features)
    one = how._replace(groups=1)
    parts = zip(
        jnp.split(x, how.groups, axis=-1), jnp.split(kernel, how.groups, axis=-1), strict=True
    )
    return jnp.concatenate([_dense(a, b, how=one) for a, b in parts], axis=-1)


def _block_diagonal(x: Array, kernel: Array, *, how: _Geometry) -> Array:
    """One convolution whose kernel is 0 between groups."""
    height, width, each, features = kernel.shape
    groups = how.groups
    blocks = kernel.reshape(height, width, each, groups, features // groups)
    same = jnp.eye(groups, dtype=kernel.dtype).reshape(1, 1, groups, 1, groups, 1)
    whole = (blocks[:, :, None] * same).reshape(height, width, groups * each, features)
    return _dense(x, whole, how=how._replace(groups=1))


def _dense(x: Array, kernel: Array, *, how: _Geometry) -> Array:
    if not _is_pointwise(kernel, how):
        return _native(x, kernel, how=how)
    return x[:, :: how.strides[0], :: how.strides[1]] @ kernel[0, 0]


def _is_pointwise(kernel: Array, how: _Geometry) -> bool:
    return kernel.shape[:2] == (1, 1) and how.pads == ((0, 0), (0, 0))


def _transposed_by_phases(
    x: Array, kernel: Array, *, strides: tuple[int, int], cut: tuple[tuple[int, int], ...]
) -> Array:
    """One convolution that gives all pixels of a step as channels, which are then spread.

    `cut` is, for each axis, where the output begins in that of full padding, and its size.
    """
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    steps = [-(-k // s) for k, s in zip(kernel.shape[:2], strides, strict=True)]
    # conv_transpose reads the kernel backwards: tap 0 here is what a pixel adds at its own place.
    kernel = kernel[::-1, ::-1]
    rest = [(0, n * s - k) for n, s, k in zip(steps, strides, kernel.shape[:2], strict=True)]
    kernel = jnp.pad(kernel, (*rest, (0, 0), (0, 0)))
    kernel = kernel.reshape(steps[0], strides[0], steps[1], strides[1], channels, features)
    # Output s·k + r sums x[k - t] times tap s·t + r: a convolution with the steps backwards.
    kernel = jnp.transpose(kernel[::-1, :, ::-1], (0, 2, 4, 1, 3, 5))
    kernel = kernel.reshape(*steps, channels, strides[0] * strides[1] * features)
    pads = ((steps[0] - 1, steps[0] - 1), (steps[1] - 1, steps[1] - 1))
    y = _dense(x, kernel, how=_Geometry(1, (1, 1), (1, 1), pads))
    high, wide = height + steps[0] - 1, width + steps[1] - 1
    y = y.reshape(batch, high, wide, *strides, features)
    y = jnp.transpose(y, (0, 1, 3, 2, 4, 5))
    y = y.reshape(batch, high * strides[0], wide * strides[1], features)
    ends = [(-first, first + size - y.shape[1 + i]) for i, (first, size) in enumerate(cut)]
    zero = jnp.zeros((), y.dtype)
    return jax.lax.pad(y, zero, [(0, 0, 0), *((*e, 0) for e in ends), (0, 0, 0)])


def _first_padding(padding: str, kernel: int, stride: int) -> int:
    """Before the first row, by the rule of `jax.lax.conv_transpose`."""
    if padding == "SAME":
        lost = kernel + stride - 2
        return kernel - 1 if stride > kernel - 1 else -(-lost // 2)
    return kernel - 1


def _with_bias(module: nn.Module, y: Array) -> Array:
    if not module.use_bias:
        return y
    bias = module.param("bias", nn.initializers.zeros, (y.shape[-1],))
    return y + bias.astype(y.dtype).reshape(1, 1, 1, -1)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _explicit(
    padding: Padding,
    shape: tuple[int, int],
    size: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
) -> Pads:
    if isinstance(padding, str):
        reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding={padding!r}: expected 'SAME', 'VALID' or numbers")
        rows, cols = jax.lax.padtype_to_pads(shape, reach, strides, padding)
        return rows, cols
    first, second = (padding, padding) if isinstance(padding, int) else padding
    return _both(first), _both(second)


def _both(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
