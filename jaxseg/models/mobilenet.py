"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov, Chen, CVPR 2018, arXiv:1801.04381).

Parameters have torchvision's names: `features.1.conv.0.0.weight` is at features/1/conv/0/0/kernel.
"""

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.convolution import DepthwiseConv
from jaxseg.models.resnet import OUTPUT_STRIDES, Features
from jaxseg.models.settings import (
    HE_OUT,
    Layers,
    Settings,
    Statistics,
    check_known,
    checked_settings,
    normalised_network,
)
from jaxseg.types import Network

STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
"""Expansion, channels, blocks and stride of the first block (the paper's table 2)."""


class _ConvNorm(nn.Module):
    """Convolution, ordinary or depthwise, batch norm and ReLU6."""

    features: int
    size: int = 1
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        if self.depthwise:
            x = depthwise(layers, stride=self.stride, dilation=self.dilation, name="0")(x)
        else:
            x = layers.conv(self.features, self.size, stride=self.stride, name="0")(x)
        return nn.relu6(layers.norm(x, "1"))


class _Bottleneck(nn.Module):
    """Expansion, depthwise convolution, projection without activation."""

    features: int
    expansion: int
    stride: int
    dilation: int

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        wide = x.shape[-1] * self.expansion
        place = 0
        if self.expansion > 1:
            x = _ConvNorm(wide, name="0")(x, layers)
            place = 1
        spatial = _ConvNorm(wide, 3, self.stride, self.dilation, depthwise=True, name=f"{place}")
        x = layers.conv(self.features, name=f"{place + 1}")(spatial(x, layers))
        return layers.norm(x, f"{place + 2}")


class _Residual(nn.Module):
    features: int
    expansion: int
    stride: int
    dilation: int
    shortcut: bool

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        inner = _Bottleneck(self.features, self.expansion, self.stride, self.dilation, name="conv")
        y = inner(x, layers)
        return x + y if self.shortcut and x.shape == y.shape else y


class _Blocks(nn.Module):
    width: float
    output_stride: int
    last: int

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Features:
        x = _ConvNorm(round_to_8(32 * self.width), 3, stride=2, name="0")(x, layers)
        place, reached, dilation = 1, 2, 1
        maps = []
        for expansion, channels, blocks, stride in STAGES:
            if stride > 1:
                maps.append(x)
            for i in range(blocks):
                step, own = stride if i == 0 else 1, dilation
                if step > 1 and reached == self.output_stride:
                    # This convolution gave every second node of those that follow.
                    step, dilation = 1, 2 * dilation
                reached *= step
                # A first block has no shortcut, though its channels may agree where all are few.
                shortcut = i > 0 or stride == 1
                features = round_to_8(channels * self.width)
                block = _Residual(features, expansion, step, own, shortcut, name=f"{place}")
                x = block(x, layers)
                place += 1
        if self.last:
            x = _ConvNorm(self.last, name=f"{place}")(x, layers)
        return (*maps, x)


class MobileNetV2(nn.Module):
    """The trunk; see `mobilenetv2`."""

    width: float = 1.0
    output_stride: int = 32
    last_layer: bool = True
    settings: Settings = Settings()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> Features:
        """The last map at each stride."""
        layers = Layers(self.settings, train, mask, axis_name)
        last = round_to_8(1280 * max(self.width, 1.0)) if self.last_layer else 0
        return _Blocks(self.width, self.output_stride, last, name="features")(x, layers)


def mobilenetv2(
    *,
    width: float = 1.0,
    output_stride: int = 32,
    last_layer: bool = True,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """MobileNetV2's trunk: an image of any size and number of channels -> `Features`.

    The maps have 16, 24, 32, 96 and 1280 channels; sides are divided by the stride and rounded up.

    Args:
        width: factor on all channels but the last layer's, which grow with it and do not shrink;
            they are rounded to multiples of 8.
        output_stride: 8, 16 or 32; strides beyond it become dilations, such that the maps contain
            those of the undilated network.
        last_layer: the 1×1 convolution to 1280 channels; without it the last map has 320.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    check_known(OUTPUT_STRIDES, output_stride=output_stride)
    settings = checked_settings(momentum, batch_norm, dtype, width=width)
    return normalised_network(MobileNetV2(width, output_stride, last_layer, settings), settings)


def depthwise(layers: Layers, *, name: str, stride: int = 1, dilation: int = 1) -> DepthwiseConv:
    """A depthwise 3×3 convolution that keeps the size, or divides it and rounds up."""
    return DepthwiseConv(
        None,
        (3, 3),
        strides=stride,
        kernel_dilation=dilation,
        padding=dilation,
        use_bias=False,
        kernel_init=HE_OUT,
        dtype=layers.settings.dtype,
        name=name,
    )


def round_to_8(channels: float) -> int:
    """The nearest multiple of 8, from 8 on, that is not below 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
