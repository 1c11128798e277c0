"""HRNet: maps at four resolutions side by side, which exchange what they see.

Sun, Xiao, Liu, Wang, "Deep High-Resolution Representation Learning for Human Pose Estimation", CVPR
2019, arXiv:1902.09212; Wang et al., TPAMI 2020, arXiv:1908.07919. The network for poses, whose
outputs are at stride 4; with `weights.HRNET` `weights.read` takes the authors' weights.

Deviation: coarser maps are repeated and then cropped to the finer one, so that images of any size
pass; where sides are multiples of 32, that is twice, four or eight times the size, as published.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.resize import resize_bilinear
from jaxseg.models.resnet import Stage
from jaxseg.models.settings import (
    Layers,
    Settings,
    Statistics,
    check_known,
    check_positive,
    checked_settings,
    normalised_network,
)
from jaxseg.models.trunk import TRUNK_OPTIONS, Trunk, TrunkOption
from jaxseg.types import Network

# The authors' initial scores are near 0, as heatmaps are nearly everywhere.
_SCORES = nn.initializers.normal(0.001)


class _ConvNorm(nn.Module):
    features: int
    size: int = 1
    stride: int = 1
    relu: bool = True

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        x = layers.conv(self.features, self.size, stride=self.stride, name="0")(x)
        x = layers.norm(x, "1")
        return nn.relu(x) if self.relu else x


class _Exchange(nn.Module):
    """Blocks in each branch, and a sum over all branches for each of the `fused` finest."""

    blocks: int
    fused: int

    @nn.compact
    def __call__(
        self, maps: tuple[Array, ...], layers: Layers
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """What the branches give, and their sums."""
        once = (1,) * self.blocks
        branches = tuple(
            Stage(x.shape[-1], False, 1, once, name=f"branch{i}")(x, layers)
            for i, x in enumerate(maps)
        )
        sums = []
        for i, own in enumerate(branches[: self.fused]):
            for j, other in enumerate(branches):
                if j != i:
                    own += self._carried(other, branches[i], j, i, layers)
            sums.append(nn.relu(own))
        return branches, tuple(sums)

    def _carried(self, x: Array, to: Array, j: int, i: int, layers: Layers) -> Array:
        """The map of branch j with the size and the channels of branch i's."""
        channels, name = to.shape[-1], f"fuse{i}_{j}"
        if j > i:
            x = _ConvNorm(channels, relu=False, name=name)(x, layers)
            return _repeat(x, 2 ** (j - i), (to.shape[1], to.shape[2]))
        for k in range(j, i):
            last = k == i - 1
            features = channels if last else x.shape[-1]
            x = _ConvNorm(features, 3, 2, not last, name=f"{name}_{k - j}")(x, layers)
        return x


def _repeat(
    x: Float[Array, "b h w c"], factor: int, size: tuple[int, int]
) -> Float[Array, "b oh ow c"]:
    batch, height, width, channels = x.shape
    shape = batch, height, factor, width, factor, channels
    x = jnp.broadcast_to(x[:, :, None, :, None], shape)
    return x.reshape(batch, factor * height, factor * width, channels)[:, : size[0], : size[1]]


class _HRNet(nn.Module):
    num_outputs: int
    width: int
    stem: int
    modules: tuple[int, int, int]
    blocks: int
    full_size: bool
    trunk: TrunkOption
    settings: Settings

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b oh ow n"] | Trunk:
        layers = Layers(self.settings, train, mask, axis_name)
        size = x.shape[1], x.shape[2]
        for i in (1, 2):
            x = layers.conv(self.stem, 3, stride=2, name=f"conv{i}")(x)
            x = nn.relu(layers.norm(x, f"bn{i}"))
        x = Stage(self.stem, True, 1, (1,) * self.blocks, name="layer1")(x, layers)
        maps: tuple[Array, ...] = (_ConvNorm(self.width, 3, name="transition1_0")(x, layers),)
        branches = maps
        for stage, modules in enumerate(self.modules, 2):
            name = f"transition{stage - 1}_{stage - 1}"
            new = _ConvNorm(self.width * 2 ** (stage - 1), 3, 2, name=name)
            maps = (*maps, new(x if stage == 2 else maps[-1], layers))
            for i in range(modules):
                # The last one's coarser sums would be used by nobody.
                fused = 1 if stage == 4 and i == modules - 1 else stage
                exchange = _Exchange(self.blocks, fused, name=f"stage{stage}_{i}")
                branches, maps = exchange(maps, layers)
        if self.trunk is True:
            return Trunk(maps[0], branches)
        outputs = layers.conv(
            self.num_outputs, use_bias=True, kernel_init=_SCORES, name="final_layer"
        )(maps[0])
        outputs = resize_bilinear(outputs, size) if self.full_size else outputs
        return Trunk(maps[0], branches, outputs) if self.trunk else outputs


def hrnet(
    num_outputs: int,
    *,
    width: int = 32,
    stem: int = 64,
    modules: tuple[int, int, int] = (1, 4, 3),
    blocks: int = 4,
    full_size: bool = False,
    trunk: TrunkOption = False,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """HRNet: an image of any size and number of channels -> maps `[B, ⌈H/4⌉, ⌈W/4⌉, num_outputs]`.

    Pixel (i, j) of a map is centred on pixel (4 i, 4 j) of the image.

    Args:
        num_outputs: channels of the output: classes, or kinds of keypoints.
        width: channels at stride 4; twice, four and eight times as many at 8, 16 and 32. Published
            are 32 (28.5 million parameters) and 48 (63.6 million).
        stem: channels of the two convolutions that come first; the bottlenecks behind them give
            four times as many.
        modules: exchanges between the branches in the stages of 2, 3 and 4 branches.
        blocks: residual blocks in every branch of an exchange, and bottlenecks in the first stage.
        full_size: whether the outputs are resized to the image, bilinearly with its borders kept.
        trunk: gives `Trunk` instead of outputs: the fused map at stride 4, and what the four
            branches (strides 4, 8, 16 and 32) hold before they are fused for the last time;
            "scored": and the outputs.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    settings = checked_settings(
        momentum,
        batch_norm,
        dtype,
        num_outputs=num_outputs,
        width=width,
        stem=stem,
        blocks=blocks,
    )
    check_known(TRUNK_OPTIONS, trunk=trunk)
    check_positive(**{f"modules[{i}]": number for i, number in enumerate(modules)})
    module = _HRNet(num_outputs, width, stem, modules, blocks, full_size, trunk, settings)
    return normalised_network(module, settings)
