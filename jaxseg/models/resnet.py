"""ResNet (He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385), an encoder.

Blocks are post-activated and stride in their 3×3 convolution, as in torchvision, whose names the
parameters have: `layer1.0.conv1.weight` is at layer1/0/conv1/kernel.
"""

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.pooling import max_pool_ceil
from jaxseg.models.settings import (
    Layers,
    Settings,
    Statistics,
    check_known,
    checked_settings,
    normalised_network,
)
from jaxseg.types import Network

Features = tuple[Array, ...]
"""Five maps, at strides 2, 4, 8, 16 and 32, but none coarser than the encoder's output stride."""

BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
"""Blocks in each stage, by depth; from 50 on they are bottlenecks."""

OUTPUT_STRIDES = (8, 16, 32)


class _Downsample(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        return layers.norm(layers.conv(self.features, stride=self.stride, name="0")(x), "1")


class _Block(nn.Module):
    """Two 3×3 convolutions, or a 3×3 between two 1×1, and the shortcut."""

    width: int
    bottleneck: bool
    stride: int
    dilation: int

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        last = self.width * (4 if self.bottleneck else 1)
        sizes = (1, 3, 1) if self.bottleneck else (3, 3)
        y = x
        for i, size in enumerate(sizes, 1):
            conv = layers.conv(
                last if i == len(sizes) else self.width,
                size,
                stride=self.stride if i == sizes.index(3) + 1 else 1,
                dilation=self.dilation if size == 3 else 1,
                name=f"conv{i}",
            )
            y = layers.norm(conv(nn.relu(y) if i > 1 else y), f"bn{i}")
        if self.stride > 1 or x.shape[-1] != last:
            x = _Downsample(last, self.stride, name="downsample")(x, layers)
        return nn.relu(x + y)


class Stage(nn.Module):
    """Residual blocks, one for each of `dilations`; the first takes the stride."""

    width: int
    bottleneck: bool
    stride: int
    dilations: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        """Divides the sides by the stride."""
        for i, dilation in enumerate(self.dilations):
            stride = self.stride if i == 0 else 1
            x = _Block(self.width, self.bottleneck, stride, dilation, name=f"{i}")(x, layers)
        return x


class ResNet(nn.Module):
    """The trunk; see `resnet`."""

    depth: int
    width: int = 64
    output_stride: int = 32
    deep_stem: bool = False
    multi_grid: tuple[int, int, int] = (1, 1, 1)
    settings: Settings = Settings()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> Features:
        """The stem's map and those of the four stages."""
        layers = Layers(self.settings, train, mask, axis_name)
        stem = ((1, 3, 2), (1, 3, 1), (2, 3, 1)) if self.deep_stem else ((1, 7, 2),)
        for i, (factor, size, stride) in enumerate(stem, 1):
            x = layers.conv(factor * self.width, size, stride=stride, name=f"conv{i}")(x)
            x = nn.relu(layers.norm(x, f"bn{i}"))
        maps = [x]
        x = max_pool_ceil(x)
        reached, dilation = 4, 1
        for i, blocks in enumerate(BLOCKS[self.depth]):
            stride = 1 if i == 0 else 2
            if reached * stride > self.output_stride:
                stride, dilation = 1, 2 * dilation
            reached *= stride
            grid = self.multi_grid if i == 3 else ()
            dilations = [dilation * m for m in (*grid, *[1] * blocks)[:blocks]]
            stage = Stage(
                self.width * 2**i, self.depth >= 50, stride, tuple(dilations), name=f"layer{i + 1}"
            )
            x = stage(x, layers)
            maps.append(x)
        return tuple(maps)


def resnet(
    depth: int,
    *,
    width: int = 64,
    output_stride: int = 32,
    deep_stem: bool = False,
    multi_grid: tuple[int, int, int] = (1, 1, 1),
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """ResNet's trunk: an image of any size and number of channels -> `Features`.

    The maps have `width` channels (twice as many with a deep stem) and then 1, 2, 4 and 8 times
    `width`, four times that in bottlenecks; sides are divided by the stride and rounded up.

    Args:
        depth: 10, 18, 34, 50 or 101. (10, one block a stage, is not the paper's.)
        width: channels of the stem and of the first stage.
        output_stride: 8, 16 or 32; stages beyond it keep the size and double the dilation of all
            of their 3×3 convolutions (the first one's too, as in the released code of PSPNet and in
            the ports of DeepLabv3+; torchvision leaves that one as it was).
        deep_stem: three 3×3 convolutions instead of one 7×7 (PSPNet).
        multi_grid: factors on the dilations of the last stage's first blocks (DeepLabv3).
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    check_known(tuple(BLOCKS), depth=depth)
    check_known(OUTPUT_STRIDES, output_stride=output_stride)
    settings = checked_settings(momentum, batch_norm, dtype, width=width)
    module = ResNet(depth, width, output_stride, deep_stem, multi_grid, settings)
    return normalised_network(module, settings)
