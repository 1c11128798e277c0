"""Samplers: networks that say where a larger image is worth reading (Marin et al., ICCV 2019).

A small view of the image goes in; out comes `[B, rows, cols, 2]`, how far each node of a uniform
grid is moved, in (row, column) of [0, 1]. The last layer begins at zero, so that an image is
sampled evenly before anything is learned. What makes the nodes cover the image is not in here: see
`ops.warp.project_covering` and `methods.adaptive`.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from jaxseg.models.mobilenet import MobileNetV2
from jaxseg.models.pooling import max_pool_2x2
from jaxseg.models.resize import resize_bilinear
from jaxseg.models.resnet import OUTPUT_STRIDES
from jaxseg.models.settings import (
    Layers,
    Settings,
    Statistics,
    check_positive,
    checked_settings,
    normalised_network,
)
from jaxseg.types import Network

_COARSEST = 4
"""Pixels of the shorter side at which the first sub-net turns back."""
_NARROWEST = 8


class _Block(nn.Module):
    """One 3×3 convolution, batch norm and ReLU."""

    features: int

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        return nn.relu(layers.norm(layers.conv(self.features, 3, name="conv")(x), "norm"))


class _UNet(nn.Module):
    """Down by halves, a block at each size, and up again, each time with the map of that size."""

    widths: tuple[int, ...]
    top: int = 0
    """The level at which it ends: 1 / 2^top of the input's size."""

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        maps = []
        for level, width in enumerate(self.widths):
            x = _Block(width, name=f"down{level}")(_halved(x) if level else x, layers)
            maps.append(x)
        for level in reversed(range(self.top, len(self.widths) - 1)):
            skip = maps[level]
            x = resize_bilinear(x, (skip.shape[1], skip.shape[2]))
            x = jnp.concatenate([skip, x], axis=-1)
            x = _Block(self.widths[level], name=f"up{level}")(x, layers)
        return x


class _Shift(nn.Module):
    """The last layer: from maps of any size to coordinates of the nodes, zero at first."""

    grid: tuple[int, int]
    own: bool

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Float32[Array, "b rows cols 2"]:
        zeros = nn.initializers.zeros
        conv = layers.conv(2, use_bias=True, kernel_init=zeros, name="conv")
        # In half precision a node of a fine grid could not be told from the next.
        shift = conv(x).astype(jnp.float32)
        if self.own:
            shift += self.param("mean", zeros, (*self.grid, 2))[None]
        return shift


class _DoubleUNet(nn.Module):
    grid: tuple[int, int]
    widths: tuple[int, ...]
    top: int
    second_depth: int
    mean: bool
    settings: Settings

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> Float32[Array, "b rows cols 2"]:
        layers = Layers(self.settings, train, mask, axis_name)
        x = _UNet(self.widths, self.top, name="boundary")(x, layers)
        # Nodes stand on the image's sides; a map of the grid's size is left as it is.
        x = resize_bilinear(x, self.grid, align_corners=True)
        second = (self.widths[-1],) * (self.second_depth + 1)
        x = _UNet(second, name="sampling")(x, layers)
        return _Shift(self.grid, self.mean, name="shift")(x, layers)


class _MobileNet(nn.Module):
    grid: tuple[int, int]
    width: float
    output_stride: int
    features: int
    mean: bool
    settings: Settings

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> Float32[Array, "b rows cols 2"]:
        layers = Layers(self.settings, train, mask, axis_name)
        trunk = MobileNetV2(self.width, self.output_stride, False, self.settings, name="trunk")
        maps = trunk(x, train=train, mask=mask, axis_name=axis_name)
        found = [resize_bilinear(maps[-1], self.grid, align_corners=True)]
        if not _covers(maps[-1].shape[1:3], self.grid):
            # The coarsest map that is as fine as the grid, or else the finest.
            fine = [m for m in maps if _covers(m.shape[1:3], self.grid)] or maps[:1]
            found.append(resize_bilinear(fine[-1], self.grid, align_corners=True))
        x = _Block(self.features, name="head")(jnp.concatenate(found, axis=-1), layers)
        return _Shift(self.grid, self.mean, name="shift")(x, layers)


def double_unet(
    grid: tuple[int, int] = (8, 8),
    *,
    features: int = 256,
    width: int | None = None,
    input_size: int | tuple[int, int] = 64,
    second_depth: int = 2,
    mean: bool = False,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """The paper's sampler: two U-Nets in a row, one for boundaries, one for where to sample.

    Blocks are one padded 3×3 convolution, batch norm and ReLU; the maps are halved by their maxima
    and doubled bilinearly. The first sub-net goes down until the shorter side of its input is 4
    pixels, and up to the coarsest size that is at least the grid's; the second halves the grid
    `second_depth` times. The last layer is a 1×1 convolution. An image costs 0.29 G
    multiply-accumulates with the defaults and 3.7 M with `features=16`; 6.6 M with that on a 16×16
    grid.

    Deviation: the paper gives 256 channels to all layers but the first and the last, though its
    published costs (0.17 G at 64×64) are a fraction of what that takes. Here channels double from
    `width` up to `features`.

    Args:
        grid: (rows, cols) of the nodes (8×8 in the paper).
        features: channels of the second sub-net and the most of the first.
        width: channels of the first layer; None: an eighth of `features`, 8 at least.
        input_size: of the image that it will see, which decides the first sub-net's depth (in the
            paper 32 to 256 pixels a side).
        second_depth: how often the second sub-net halves the grid.
        mean: whether every node has a shift of its own beside, the same for all images: where
            boundaries lie on average. Costs nothing.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters. The result is float32.

    Raises:
        ValueError: an option is out of range.
    """
    first = width if width is not None else min(max(features // 8, _NARROWEST), features)
    settings = checked_settings(
        momentum, batch_norm, dtype, features=features, width=first, second_depth=second_depth
    )
    size = _checked(grid, input_size)
    if first > features:
        raise ValueError(f"width={first}: expected at most features={features}")
    depth = max(min(size) // _COARSEST, 1).bit_length() - 1
    levels = range(depth + 1)
    top = max((i for i in levels if _covers(_at(size, 2**i), grid)), default=0)
    widths = tuple(min(first * 2**i, features) for i in levels[:-1])
    module = _DoubleUNet(grid, (*widths, features), top, second_depth, mean, settings)
    return normalised_network(module, settings)


def mobilenet_sampler(
    grid: tuple[int, int] = (8, 8),
    *,
    width: float = 0.25,
    input_size: int | tuple[int, int] = 64,
    features: int = 32,
    mean: bool = True,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """The light sampler: MobileNetV2 with few channels, after the authors' public code.

    The trunk's stride is the largest of 8, 16 and 32 at which its maps are as fine as the grid;
    where even 8 is too coarse, the maps are brought to the grid and meet the trunk's own map of
    that size. Then come a 3×3 convolution, batch norm, ReLU and a 1×1 convolution. (The public code
    has DeepLab's head, which pools the whole image too.)

    Args:
        grid: (rows, cols) of the nodes.
        width: factor on MobileNetV2's channels.
        input_size: of the image that it will see, which decides the stride.
        features: channels of the last but one layer.
        mean: see `double_unet`; the public code has it.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters. The result is float32.

    Raises:
        ValueError: an option is out of range.
    """
    settings = checked_settings(momentum, batch_norm, dtype, features=features, width=width)
    size = _checked(grid, input_size)
    strides = [n for n in OUTPUT_STRIDES if _covers(_at(size, n), grid)]
    stride = max(strides, default=min(OUTPUT_STRIDES))
    return normalised_network(_MobileNet(grid, width, stride, features, mean, settings), settings)


def _checked(grid: tuple[int, int], input_size: int | tuple[int, int]) -> tuple[int, int]:
    if len(grid) != 2 or min(grid) < 2:
        raise ValueError(f"grid={grid}: expected (rows, columns) of nodes, each at least 2")
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    check_positive(**{"input_size": min(size)})
    return size


def _at(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """What is left of a size at a stride."""
    return math.ceil(size[0] / stride), math.ceil(size[1] / stride)


def _covers(size: Sequence[int], grid: tuple[int, int]) -> bool:
    return size[0] >= grid[0] and size[1] >= grid[1]


def _halved(x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow c"]:
    """Maxima of 2×2 pixels; an odd last row or column counts twice."""
    pads = ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))
    return max_pool_2x2(jnp.pad(x, pads, mode="edge"))
