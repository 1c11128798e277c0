"""Feature pyramid network (Lin, Dollár, Girshick, He, Hariharan, Belongie, CVPR 2017) on a ResNet.

The encoder's stages C2 to C5, of strides 4 to 32, each go through a 1×1 convolution to the same
number of channels; from the coarsest on, each is doubled in size by repetition and added to the
next finer one; a 3×3 convolution then gives P2 to P5, without activation. P6, of stride 64, is
every second cell of P5: what torchvision and detectron2 call a pooling with a window of one.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.resnet import BLOCKS, ResNet
from jaxseg.models.settings import (
    Layers,
    Settings,
    Statistics,
    check_known,
    checked_settings,
    normalised_network,
)
from jaxseg.types import Network

Pyramid = tuple[Float[Array, "b _ _ k"], ...]
"""P2 to P6; height and width of each are the image's by its stride, rounded up."""

Normalisation = Literal["frozen", "running", "batch"]

STRIDES = (4, 8, 16, 32, 64)

XAVIER = nn.initializers.lecun_uniform()
"""Uniform, of variance 1 / inputs: that of the published pyramids and fully connected layers."""

_HELD = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
"""What `frozen_stages` counts."""


class FeaturePyramid(nn.Module):
    """See `fpn`."""

    depth: int
    width: int
    features: int
    frozen: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], layers: Layers) -> Pyramid:
        """P2 to P6."""
        encoder = ResNet(self.depth, self.width, settings=layers.settings, name="encoder")
        train = layers.train and not self.frozen
        _, *stages = encoder(x, train=train, mask=layers.mask, axis_name=layers.axis_name)
        maps: list[Array] = []
        for level in reversed(range(4)):
            lateral = layers.conv(
                self.features, use_bias=True, kernel_init=XAVIER, name=f"lateral{level + 2}"
            )
            y = lateral(stages[level])
            maps.insert(0, y + doubled(maps[0], (y.shape[1], y.shape[2])) if maps else y)
        for level, y in enumerate(maps):
            output = layers.conv(
                self.features, 3, use_bias=True, kernel_init=XAVIER, name=f"output{level + 2}"
            )
            maps[level] = output(y)
        return (*maps, maps[-1][:, ::2, ::2])


class _Alone(nn.Module):
    """A pyramid as a network."""

    pyramid: tuple[int, int, int, bool]
    settings: Settings

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> Pyramid:
        layers = Layers(self.settings, train, mask, axis_name)
        return FeaturePyramid(*self.pyramid, name="pyramid")(x, layers)


def fpn(
    *,
    depth: int = 50,
    width: int = 64,
    features: int = 256,
    batch_norm: Normalisation = "frozen",
    frozen_stages: int | None = None,
    momentum: float = 0.9,
    dtype: DTypeLike | None = None,
) -> Network:
    """A feature pyramid: an image of any size and number of channels -> `Pyramid`.

    Args:
        depth: of the ResNet, 10, 18, 34, 50 or 101. `depth=10, width=16` trains on a CPU.
        width: channels of its first stage; see `models.resnet`.
        features: channels of each of the pyramid's maps.
        batch_norm: "frozen": training leaves the statistics, and the scales and biases that follow
            them, as they are, for pretrained encoders and batches of few images; otherwise it
            learns them, and evaluation uses the running statistics or its own batch's.
        frozen_stages: with "frozen", how much of the encoder has no gradient: 1 the stem, 2 the
            first stage, too, and so on to 5; None: 2. (Of an encoder that is not pretrained
            nothing should be: 0.)
        momentum: of the running statistics.
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    settings, frozen = pyramid_settings(
        batch_norm, frozen_stages, momentum, dtype, depth=depth, width=width, features=features
    )
    module = _Alone((depth, width, features, batch_norm == "frozen"), settings)
    return without_gradient(normalised_network(module, settings), frozen)


def pyramid_settings(
    batch_norm: Normalisation,
    frozen_stages: int | None,
    momentum: float,
    dtype: DTypeLike | None,
    *,
    depth: int,
    **numbers: int,
) -> tuple[Settings, Callable[[str], bool]]:
    """How layers compute, and which parameters, by their path, are not trained.

    Raises:
        ValueError: an option is out of range.
    """
    check_known(tuple(BLOCKS), depth=depth)
    check_known(get_args(Normalisation), batch_norm=batch_norm)
    if frozen_stages is None:
        frozen_stages = 2 if batch_norm == "frozen" else 0
    most = len(_HELD) if batch_norm == "frozen" else 0
    if not 0 <= frozen_stages <= most:
        raise ValueError(
            f"frozen_stages={frozen_stages}: expected 0 to {most} where batch_norm={batch_norm!r}"
        )
    known: Statistics = "batch" if batch_norm == "batch" else "running"
    settings = checked_settings(momentum, known, dtype, **numbers)
    held = {name for stage in _HELD[:frozen_stages] for name in stage}

    def frozen(path: str) -> bool:
        _, found, below = f"/{path}".partition("/encoder/")
        names = below.split("/")
        affine = batch_norm == "frozen" and names[-1] in ("scale", "bias")
        return bool(found) and (names[0] in held or affine)

    return settings, frozen


def without_gradient(network: Network, frozen: Callable[[str], bool]) -> Network:
    """The network; what `frozen` names by its path gets no gradient, nor is any computed there."""

    def stop(path: Any, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jax.lax.stop_gradient(leaf) if frozen(name) else leaf

    def apply(variables: Any, /, *inputs: Any, **options: Any) -> Any:
        params = jax.tree_util.tree_map_with_path(stop, variables["params"])
        return network.apply({**variables, "params": params}, *inputs, **options)

    return network._replace(apply=apply)


def doubled(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b oh ow c"]:
    """Every cell four times, cropped to `size`: PyTorch's "nearest" to a side of 2·n or 2·n - 1."""
    batch, height, width, channels = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return wide.reshape(batch, 2 * height, 2 * width, channels)[:, : size[0], : size[1]]
