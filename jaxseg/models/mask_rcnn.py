"""Mask R-CNN's networks (He, Gkioxari, Dollár, Girshick, ICCV 2017) on a feature pyramid.

Several networks over one tree of variables, since what lies between them, the choice of boxes and
the pooling of features, belongs to the method. Sizes and initial values are those of detectron2's
and torchvision's configurations. Scores and corrections of boxes are computed in float32 whatever
the `dtype`, since a correction in bfloat16 is off by pixels; masks' logits are returned as float32.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.fpn import (
    STRIDES,
    XAVIER,
    FeaturePyramid,
    Normalisation,
    Pyramid,
    pyramid_settings,
    without_gradient,
)
from jaxseg.models.settings import HE_OUT, Layers, Settings, check_known, normalised_network
from jaxseg.models.upsampling import ConvTranspose2x2
from jaxseg.ops.color import at_least_float32
from jaxseg.types import Network

Entry = Literal["pyramid", "propose", "classify", "segment", "embed"]

MASK_SIZES = (28, 56)
BOX_CROP = 7

_OF_LEVELS = ("propose", "embed")

_SMALL = nn.initializers.normal(0.01)
_SMALLEST = nn.initializers.normal(0.001)


def _never(path: str) -> bool:
    return False


class MaskRCNN(NamedTuple):
    """Networks over one tree of variables; each takes all of it.

    `pyramid.init(key, image)` makes it, as do the others' `init`, which take an image too. Its
    parts have the names of the networks: params/propose/conv/kernel. All but the pyramid return
    the statistics as they came.
    """

    pyramid: Network
    """image `[B, H, W, C]` -> P2 to P6, `[B, h, w, F]` each (`models.fpn`)."""
    propose: Network
    """P2 to P6 as a tuple -> logits `[B, A]` of there being an object, and deltas `[B, A, 4]`,
    (dy, dx, dh, dw), in the order of `ops.boxes.pyramid_anchors`."""
    classify: Network
    """crops `[B, R, 7, 7, F]` -> logits `[B, R, K + 1]`, of the background and then of class k at
    k + 1, and deltas `[B, R, K, 4]`, (dy, dx, dh, dw) for each class."""
    segment: Network
    """crops `[B, R, M / 2, M / 2, F]` -> logits `[B, R, M, M, K]` of the mask of each class."""
    embed: Network | None
    """P2 to P5 as a tuple -> `[B, h, w, D]` each; None where none was asked for."""
    strides: tuple[int, ...]
    """Of the pyramid's maps."""
    num_classes: int
    """K."""
    mask_size: int
    """M."""
    crop_sizes: tuple[int, int]
    """Bins along a side of the crops that `classify` and `segment` take."""
    frozen: Callable[[str], bool] = _never
    """Whether the parameter of this path is not trained. It has no gradient; to keep weight decay
    from it, too: `train.optimizers.by_parameter(o, lambda path: 0.0 if frozen(path) else 1.0)`."""


class _Propose(nn.Module):
    """One 3×3 convolution and two 1×1, shared by the levels (Ren et al., NIPS 2015)."""

    features: int
    anchors_per_cell: int

    @nn.compact
    def __call__(self, maps: Pyramid, layers: Layers) -> tuple[Array, Array]:
        wide = _wide(layers)
        options: dict[str, Any] = {"use_bias": True, "kernel_init": _SMALL}
        conv = layers.conv(self.features, 3, name="conv", **options)
        score = wide.conv(self.anchors_per_cell, name="score", **options)
        correct = wide.conv(4 * self.anchors_per_cell, name="deltas", **options)
        logits, deltas = [], []
        for x in maps:
            y = at_least_float32(nn.relu(conv(x)))
            logits.append(score(y).reshape(len(x), -1))
            deltas.append(correct(y).reshape(len(x), -1, 4))
        return jnp.concatenate(logits, axis=1), jnp.concatenate(deltas, axis=1)


class _Classify(nn.Module):
    """Two fully connected layers, scores and corrections."""

    num_classes: int
    hidden: int

    @nn.compact
    def __call__(self, crops: Float[Array, "b r _ _ k"], layers: Layers) -> tuple[Array, Array]:
        _check_crops(crops, BOX_CROP)
        options: dict[str, Any] = {"kernel_init": XAVIER, "dtype": layers.settings.dtype}
        # Its kernel is [7, 7, F, hidden], like a convolution's, as `weights.to_variables` wants it.
        whole = nn.DenseGeneral(self.hidden, axis=(-3, -2, -1), name="fc6", **options)
        x = nn.relu(whole(crops))
        x = nn.relu(nn.Dense(self.hidden, name="fc7", **options)(x))
        x = at_least_float32(x)
        logits = nn.Dense(self.num_classes + 1, kernel_init=_SMALL, name="score")(x)
        deltas = nn.Dense(4 * self.num_classes, kernel_init=_SMALLEST, name="deltas")(x)
        return logits, deltas.reshape(*x.shape[:2], self.num_classes, 4)


class _Segment(nn.Module):
    """Four 3×3 convolutions, a transposed one, scores."""

    num_classes: int
    features: int
    crop_size: int

    @nn.compact
    def __call__(self, crops: Float[Array, "b r _ _ k"], layers: Layers) -> Array:
        _check_crops(crops, self.crop_size)
        x = crops.reshape(-1, *crops.shape[2:])
        for i in range(1, 5):
            x = nn.relu(layers.conv(self.features, 3, use_bias=True, name=f"conv{i}")(x))
        rise = ConvTranspose2x2(
            self.features, kernel_init=HE_OUT, dtype=layers.settings.dtype, name="rise"
        )
        x = nn.relu(rise(x))
        score = layers.conv(self.num_classes, use_bias=True, kernel_init=_SMALLEST, name="score")
        x = at_least_float32(score(x))
        return x.reshape(*crops.shape[:2], *x.shape[1:])


class _Embed(nn.Module):
    """1×1, ReLU, 3×3, shared by the levels (Novotny et al., ECCV 2018, section 4.2).

    It begins near 0, so that embeddings begin as the coordinates that are added to them.
    """

    features: int
    dims: int

    @nn.compact
    def __call__(self, maps: Pyramid, layers: Layers) -> tuple[Array, ...]:
        first = layers.conv(self.features, use_bias=True, name="conv1")
        second = _wide(layers).conv(
            self.dims, 3, use_bias=True, kernel_init=_SMALLEST, name="conv2"
        )
        return tuple(second(at_least_float32(nn.relu(first(x)))) for x in maps)


class _MaskRCNN(nn.Module):
    """All parts, of which a call runs one, and initialisation every one."""

    entry: Entry
    num_classes: int
    pyramid: tuple[int, int, int, bool]
    hidden: int
    crop_size: int
    dims: int
    anchors_per_cell: int
    settings: Settings

    @nn.compact
    def __call__(self, x: Array, *levels: Array, train=False, mask=None, axis_name=None) -> Any:
        layers = Layers(self.settings, train, mask, axis_name)
        features = self.pyramid[2]
        parts: dict[str, Callable[..., Any]] = {
            "pyramid": FeaturePyramid(*self.pyramid, name="pyramid"),
            "propose": _Propose(features, self.anchors_per_cell, name="propose"),
            "classify": _Classify(self.num_classes, self.hidden, name="classify"),
            "segment": _Segment(self.num_classes, features, self.crop_size, name="segment"),
            "embed": _Embed(features, self.dims, name="embed"),
        }
        if not self.is_initializing():
            inputs = (x, *levels) if self.entry in _OF_LEVELS else x
            return parts[self.entry](inputs, layers)
        maps = parts["pyramid"](x, layers)
        parts["propose"](maps, layers)
        for name, size in (("classify", BOX_CROP), ("segment", self.crop_size)):
            parts[name](jnp.zeros((1, 1, size, size, features)), layers)
        if self.dims:
            parts["embed"](maps[:4], layers)
        return maps


def mask_rcnn(
    num_classes: int,
    *,
    depth: int = 50,
    width: int = 64,
    features: int = 256,
    hidden: int = 1024,
    mask_size: int = 28,
    embedding: int = 0,
    anchors_per_cell: int = 3,
    batch_norm: Normalisation = "frozen",
    frozen_stages: int | None = None,
    momentum: float = 0.9,
    dtype: DTypeLike | None = None,
) -> MaskRCNN:
    """The networks of Mask R-CNN, for images of any size and number of channels.

    `mask_rcnn(1, depth=10, width=16, features=32, hidden=64, batch_norm="running")` trains on a
    CPU. Weights of torchvision's are read by `models.mask_rcnn_weights`.

    Args:
        num_classes: K, without the background.
        depth: of the ResNet, 10, 18, 34, 50 or 101.
        width: channels of its first stage.
        features: F, channels of the pyramid and of the heads' convolutions.
        hidden: of the two fully connected layers of the box head.
        mask_size: M, 28 or 56.
        embedding: D, channels that `embed` gives at each cell (8 in the paper of semi-convolutional
            embeddings); 0: there is none.
        anchors_per_cell: boxes that each cell begins with, as many as there are `ratios`.
        batch_norm: of the encoder, see `models.fpn`; the heads have none.
        frozen_stages: see `models.fpn`.
        momentum: of the running statistics.
        dtype: of the computation up to the last layers; None: that of the parameters.

    Raises:
        ValueError: an option is out of range; when traced: crops of another size.
    """
    check_known(MASK_SIZES, mask_size=mask_size)
    if embedding < 0:
        raise ValueError(f"embedding={embedding}: expected 0 or more")
    settings, frozen = pyramid_settings(
        batch_norm,
        frozen_stages,
        momentum,
        dtype,
        depth=depth,
        num_classes=num_classes,
        width=width,
        features=features,
        hidden=hidden,
        anchors_per_cell=anchors_per_cell,
    )

    def entry(name: Entry) -> Network:
        module = _MaskRCNN(
            name,
            num_classes,
            (depth, width, features, batch_norm == "frozen"),
            hidden,
            mask_size // 2,
            embedding,
            anchors_per_cell,
            settings,
        )
        made = without_gradient(normalised_network(module, settings), frozen)
        return _with_tuples(made) if name in _OF_LEVELS else made

    return MaskRCNN(
        pyramid=entry("pyramid"),
        propose=entry("propose"),
        classify=entry("classify"),
        segment=entry("segment"),
        embed=entry("embed") if embedding else None,
        strides=STRIDES,
        num_classes=num_classes,
        mask_size=mask_size,
        crop_sizes=(BOX_CROP, mask_size // 2),
        frozen=frozen,
    )


def _with_tuples(network: Network) -> Network:
    """The network of many inputs, taking them as one tuple."""

    def apply(variables: Any, /, *inputs: Any, **options: Any) -> Any:
        (maps,) = inputs
        return network.apply(variables, *maps, **options)

    return network._replace(apply=apply)


def _wide(layers: Layers) -> Layers:
    """Layers that compute in the type of what they are given and of their parameters."""
    return layers._replace(settings=layers.settings._replace(dtype=None))


def _check_crops(crops: Array, size: int) -> None:
    if crops.shape[2:4] != (size, size):
        raise ValueError(f"crops of {crops.shape[2]}×{crops.shape[3]}: expected {size}×{size}")
