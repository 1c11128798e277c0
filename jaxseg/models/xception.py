"""Aligned Xception with 65 layers, the encoder of DeepLabv3+ (Chen et al., ECCV 2018, section 3.2).

Chollet's Xception (CVPR 2017) with a deeper middle, poolings replaced by strides, and batch norm
after every depthwise convolution. Where the released code and the port of jfzhang differ, this is
the former, but for activations between a depthwise convolution and its 1×1, which neither paper nor
port has in all blocks:
    - the shortcut starts before the ReLU of its block; in the port an in-place ReLU comes first;
    - the last convolution of a block is dilated as its others, so that the maps at a smaller output
      stride contain those at a larger one; the port leaves it at 1.
"""

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.mobilenet import depthwise, round_to_8
from jaxseg.models.resnet import OUTPUT_STRIDES, Features
from jaxseg.models.settings import (
    Layers,
    Settings,
    Statistics,
    check_known,
    checked_settings,
    normalised_network,
)
from jaxseg.types import Network

MIDDLE_BLOCKS = 16


class _Separable(nn.Module):
    features: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        conv = depthwise(layers, stride=self.stride, dilation=self.dilation, name="conv1")
        x = layers.norm(conv(x), "bn")
        return layers.conv(self.features, name="pointwise")(x)


class _Block(nn.Module):
    """Three separable convolutions, of which the last strides, and a shortcut."""

    features: tuple[int, int, int]
    stride: int = 1
    dilation: int = 1
    start_with_relu: bool = True

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        y = x
        for i, features in enumerate(self.features, 1):
            if i > 1 or self.start_with_relu:
                y = nn.relu(y)
            stride = self.stride if i == 3 else 1
            y = _Separable(features, stride, self.dilation, name=f"conv{i}")(y, layers)
            y = layers.norm(y, f"bn{i}")
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = layers.conv(y.shape[-1], stride=self.stride, name="skip")(x)
            x = layers.norm(x, "skipbn")
        return x + y


class Xception(nn.Module):
    """The trunk; see `xception`."""

    width: float = 1.0
    output_stride: int = 32
    settings: Settings = Settings()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> Features:
        """The last map at each stride."""
        layers = Layers(self.settings, train, mask, axis_name)
        stem1, stem2, low, middle, wide, exit1, exit2, exit3 = (
            round_to_8(c * self.width) for c in (32, 64, 128, 256, 728, 1024, 1536, 2048)
        )
        x = nn.relu(layers.norm(layers.conv(stem1, 3, stride=2, name="conv1")(x), "bn1"))
        x = nn.relu(layers.norm(layers.conv(stem2, 3, name="conv2")(x), "bn2"))
        maps = [x]
        x = nn.relu(_Block((low,) * 3, 2, start_with_relu=False, name="block1")(x, layers))
        maps.append(x)
        x = _Block((middle,) * 3, 2, start_with_relu=False, name="block2")(x, layers)
        maps.append(x)
        # A stride that is left out doubles the dilation of all that follows.
        stride, dilation = (2, 1) if self.output_stride > 8 else (1, 2)
        x = _Block((wide,) * 3, stride, name="block3")(x, layers)
        for i in range(4, 4 + MIDDLE_BLOCKS):
            x = _Block((wide,) * 3, dilation=dilation, name=f"block{i}")(x, layers)
        maps.append(x)
        stride, last = (2, 1) if self.output_stride > 16 else (1, 2 * dilation)
        exit_block = _Block(
            (wide, exit1, exit1), stride, dilation, name=f"block{4 + MIDDLE_BLOCKS}"
        )
        x = nn.relu(exit_block(x, layers))
        for i, features in enumerate((exit2, exit2, exit3), 3):
            x = _Separable(features, dilation=last, name=f"conv{i}")(x, layers)
            x = nn.relu(layers.norm(x, f"bn{i}"))
        return (*maps, x)


def xception(
    *,
    width: float = 1.0,
    output_stride: int = 32,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """Xception's trunk: an image of any size and number of channels -> `Features`.

    The maps have 64, 128, 256, 728 and 2048 channels; sides are divided by the stride and rounded
    up. The third and the fourth are not activated.

    Args:
        width: factor on all channels, which are rounded to multiples of 8.
        output_stride: 8, 16 or 32; strides beyond it become dilations.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    check_known(OUTPUT_STRIDES, output_stride=output_stride)
    settings = checked_settings(momentum, batch_norm, dtype, width=width)
    return normalised_network(Xception(width, output_stride, settings), settings)
