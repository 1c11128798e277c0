"""ESPNetv2 for segmentation (Mehta, Rastegari, Shapiro, Hajishirzi, CVPR 2019, arXiv:1811.11431).

The network of the authors' EdgeNets release, with its decoder; `weights.read` takes its weights.

Deviation: maps are upsampled to the size of the skip that they meet, so that images of any size
pass; where sides are multiples of 16, that is twice the size, as released.
"""

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.espnet_layers import (
    EESP,
    ConvNorm,
    DownSampler,
    NormAct,
    PyramidPool,
    Skip,
)
from jaxseg.models.pooling import average_pool_3x3
from jaxseg.models.resize import resize_bilinear
from jaxseg.models.settings import (
    Layers,
    Settings,
    Statistics,
    check_known,
    checked_settings,
    normalised_network,
)
from jaxseg.models.trunk import TRUNK_OPTIONS, Trunk, TrunkOption
from jaxseg.types import Network

CHANNELS = {
    0.5: (16, 32, 64, 128),
    1.0: (32, 64, 128, 256),
    1.25: (32, 80, 160, 320),
    1.5: (32, 96, 192, 384),
    2.0: (32, 128, 256, 512),
}
"""Of the maps at the strides 2, 4, 8 and 16, by scale."""

_UNITS = {3: 3, 4: 7}
"""How often a level repeats its unit after the downsampling."""
_RECEPTIVE_FIELDS = {2: 13, 3: 11, 4: 9}
"""Of the downsampling into a level."""
_UNIT_FIELDS = {3: 9, 4: 7}


class Encoder(nn.Module):
    """ESPNetv2 up to its fourth level."""

    scale: float = 2.0
    settings: Settings = Settings()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> tuple[Array, Array, Array, Array]:
        """Maps at the strides 2, 4, 8 and 16."""
        layers = Layers(self.settings, train, mask, axis_name)
        channels = CHANNELS[self.scale]
        image = average_pool_3x3(x)
        maps = [ConvNorm(channels[0], 3, 2, name="level1")(x, layers)]
        for level in (2, 3, 4):
            image = average_pool_3x3(image)
            down = DownSampler(
                channels[level - 1], _RECEPTIVE_FIELDS[level], name=f"level{level}_0"
            )
            y = down(maps[-1], image, layers)
            for i in range(_UNITS.get(level, 0)):
                unit = EESP(y.shape[-1], _UNIT_FIELDS[level], name=f"level{level}_unit{i}")
                y = unit(y, layers)
            maps.append(y)
        return maps[0], maps[1], maps[2], maps[3]


class Decoder(nn.Module):
    """EdgeNets' decoder: four pyramids, and skips in between."""

    num_classes: int
    width: int = 16
    settings: Settings = Settings()
    scored: bool = True

    @nn.compact
    def __call__(
        self, maps: tuple[Array, ...], *, train=False, mask=None, axis_name=None
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w n"] | None]:
        """The encoder's maps to what the last pyramid reads, and to its logits, at stride 2."""
        layers = Layers(self.settings, train, mask, axis_name)
        projection = max(min(self.num_classes // 2, self.width), 1)
        y = maps[-1]
        for i, skip in enumerate(maps[-2::-1], 1):
            features = (5 - i) * self.width
            y = PyramidPool(features, projection, name=f"pyramid{i}")(y, layers)
            y = resize_bilinear(y, (skip.shape[1], skip.shape[2]), align_corners=True)
            y += Skip(features, name=f"skip{i + 1}")(skip, layers)
            y = NormAct(name=f"norm{i + 1}")(y, layers)
        if not self.scored:
            return y, None
        last = PyramidPool(self.num_classes, projection, last=True, name=f"pyramid{len(maps)}")
        return y, last(y, layers)


class _ESPNetv2(nn.Module):
    num_classes: int
    scale: float
    decoder_width: int
    settings: Settings
    trunk: TrunkOption

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w n"] | Trunk:
        options = {"train": train, "mask": mask, "axis_name": axis_name}
        maps = Encoder(self.scale, self.settings, name="encoder")(x, **options)
        scored = self.trunk is not True
        decoder = Decoder(
            self.num_classes, self.decoder_width, self.settings, scored, name="decoder"
        )
        y, scores = decoder(maps, **options)
        if scores is None:
            return Trunk(y, maps)
        scores = resize_bilinear(scores, (x.shape[1], x.shape[2]), align_corners=True)
        return Trunk(y, maps, scores) if self.trunk else scores


def espnetv2(
    num_classes: int,
    *,
    scale: float = 2.0,
    decoder_width: int = 16,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
    trunk: TrunkOption = False,
) -> Network:
    """ESPNetv2: an image of any size and number of channels -> logits `[B, H, W, num_classes]`.

    Sides that are multiples of 16 are those of the release. Its weights want images in [0, 1] less
    ImageNet's mean (0.485, 0.456, 0.406), divided by its deviation (0.229, 0.224, 0.225).

    Args:
        num_classes: channels of the output; the release for Cityscapes has 20.
        scale: of the widths: 0.5, 1, 1.25, 1.5 or 2.
        decoder_width: 16 in the releases for Pascal VOC and Cityscapes, 32 for COCO.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters.
        trunk: whether it gives a `models.trunk.Trunk`, whose features are those that the last
            pyramid reads, the prediction of this network: 2·`decoder_width` channels at stride 2;
            "scored": one with the logits.

    Raises:
        ValueError: an option is out of range.
    """
    settings = checked_settings(
        momentum, batch_norm, dtype, num_classes=num_classes, decoder_width=decoder_width
    )
    check_known(TRUNK_OPTIONS, trunk=trunk)
    check_known(tuple(CHANNELS), scale=scale)
    return normalised_network(
        _ESPNetv2(num_classes, scale, decoder_width, settings, trunk), settings
    )
