"""DeepLabv3+ (Chen, Zhu, Papandreou, Schroff, Adam, ECCV 2018, arXiv:1802.02611).

Structure and numbers of parameters are those of the port of jfzhang. Deviations from it:
    - MobileNetV2 pads its depthwise convolutions, as torchvision does, not the blocks' inputs, and
      in a stage whose stride became a dilation the first convolution keeps its own, so that the
      encoder's maps contain those of the undilated one; Xception: see `models.xception`;
    - convolutions start from He's distribution by their outputs, as in torchvision's encoders, and
      the last one from LeCun's by its inputs.
"""

from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.mobilenet import MobileNetV2
from jaxseg.models.resize import resize_bilinear
from jaxseg.models.resnet import ResNet
from jaxseg.models.settings import (
    SCORES,
    Layers,
    Settings,
    Statistics,
    check_known,
    check_positive,
    checked_settings,
    normalised_network,
)
from jaxseg.models.trunk import TRUNK_OPTIONS, Trunk, TrunkOption
from jaxseg.models.xception import Xception
from jaxseg.types import Network

Depth = Literal[50, 101]

_RATES = (6, 12, 18)
_MULTI_GRID = (1, 2, 4)


class _ASPP(nn.Module):
    """Atrous spatial pyramid pooling: four fields of view and the image's mean."""

    features: int
    scale: int

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        def branch(x: Array, name: str, size: int = 1, dilation: int = 1) -> Array:
            x = layers.conv(self.features, size, dilation=dilation, name=name)(x)
            return nn.relu(layers.norm(x, f"{name}_bn"))

        maps = [branch(x, "aspp1")]
        for i, rate in enumerate(_RATES, 2):
            maps.append(branch(x, f"aspp{i}", 3, rate * self.scale))
        mean = branch(jnp.mean(x, axis=(1, 2), keepdims=True), "pool")
        maps.append(jnp.broadcast_to(mean, maps[0].shape))
        y = branch(jnp.concatenate(maps, axis=-1), "conv1")
        return layers.dropout(y, 0.5, "dropout")


class _Decoder(nn.Module):
    num_classes: int
    features: int
    scored: bool

    @nn.compact
    def __call__(self, x: Array, low: Array, layers: Layers) -> tuple[Array, Array | None]:
        """The map that the scores are made of, and the scores, both at the size of `low`."""
        low = layers.conv(max(3 * self.features // 16, 1), name="conv1")(low)
        low = nn.relu(layers.norm(low, "bn1"))
        x = resize_bilinear(x, (low.shape[1], low.shape[2]), align_corners=True)
        x = jnp.concatenate([x, low], axis=-1)
        for i, rate in ((2, 0.5), (3, 0.1)):
            x = nn.relu(layers.norm(layers.conv(self.features, 3, name=f"conv{i}")(x), f"bn{i}"))
            x = layers.dropout(x, rate, f"dropout{i}")
        if not self.scored:
            return x, None
        score = layers.conv(self.num_classes, use_bias=True, kernel_init=SCORES, name="score")
        return x, score(x)


class _DeepLab(nn.Module):
    num_classes: int
    encoder: nn.Module
    output_stride: int
    features: int
    settings: Settings
    trunk: TrunkOption

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], keys=None, *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w n"] | Trunk:
        layers = Layers(self.settings, train, mask, axis_name, keys)
        maps = self.encoder(x, train=train, mask=mask, axis_name=axis_name)
        _, low, *_, last = maps
        y = _ASPP(self.features, 16 // self.output_stride, name="aspp")(last, layers)
        decoder = _Decoder(self.num_classes, self.features, self.trunk is not True, name="decoder")
        y, scores = decoder(y, low, layers)
        if scores is None:
            return Trunk(y, maps)
        scores = resize_bilinear(scores, (x.shape[1], x.shape[2]), align_corners=True)
        return Trunk(y, maps, scores) if self.trunk else scores


def deeplab_resnet(
    num_classes: int,
    *,
    depth: Depth = 50,
    output_stride: int = 16,
    width: int = 64,
    features: int = 256,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
    trunk: TrunkOption = False,
) -> Network:
    """DeepLabv3+ on ResNet: an image of any size -> logits `[B, H, W, num_classes]`.

    A second input, random keys `[B]`, one for each example, turns on dropout. In training, the mean
    over the image is normalised over the batch alone, which wants two examples or more.

    Args:
        num_classes: channels of the output.
        depth: of the ResNet, 50 or 101.
        output_stride: 8 or 16; at 8 all dilations are twice as large.
        width: channels of the ResNet's first stage.
        features: channels of the pyramid and the decoder; the fine map has 3 / 16 of them.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters.
        trunk: whether it gives a `models.trunk.Trunk`, at stride 4; "scored": one with the logits.

    Raises:
        ValueError: an option is out of range.
    """
    check_known(get_args(Depth), depth=depth)
    settings = checked_settings(momentum, batch_norm, dtype, width=width)
    encoder = ResNet(depth, width, output_stride, False, _MULTI_GRID, settings, name="encoder")
    return _deeplab(num_classes, encoder, output_stride, features, settings, trunk)


def deeplab_xception(
    num_classes: int,
    *,
    output_stride: int = 16,
    width: float = 1.0,
    features: int = 256,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
    trunk: TrunkOption = False,
) -> Network:
    """DeepLabv3+ on aligned Xception; see `deeplab_resnet`. `width` is a factor on its channels.

    Raises:
        ValueError: an option is out of range.
    """
    settings = checked_settings(momentum, batch_norm, dtype, width=width)
    encoder = Xception(width, output_stride, settings, name="encoder")
    return _deeplab(num_classes, encoder, output_stride, features, settings, trunk)


def deeplab_mobilenetv2(
    num_classes: int,
    *,
    output_stride: int = 16,
    width: float = 1.0,
    features: int = 256,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
    trunk: TrunkOption = False,
) -> Network:
    """DeepLabv3+ on MobileNetV2 without its last layer; see `deeplab_resnet`.

    `width` is a factor on MobileNetV2's channels.

    Raises:
        ValueError: an option is out of range.
    """
    settings = checked_settings(momentum, batch_norm, dtype, width=width)
    encoder = MobileNetV2(width, output_stride, False, settings, name="encoder")
    return _deeplab(num_classes, encoder, output_stride, features, settings, trunk)


def _deeplab(
    num_classes: int,
    encoder: nn.Module,
    output_stride: int,
    features: int,
    settings: Settings,
    trunk: TrunkOption,
) -> Network:
    check_known(TRUNK_OPTIONS, trunk=trunk)
    check_known((8, 16), output_stride=output_stride)
    check_positive(num_classes=num_classes, features=features)
    module = _DeepLab(num_classes, encoder, output_stride, features, settings, trunk)
    return normalised_network(module, settings)
