"""The types that every part of jaxseg shares, and nothing else.

A method is four functions (`Method`), a network two (`Network`), a measure three (`Metric`).
Each slot is a documented Protocol, so that a function of one's own can be held against it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jax import Array

PyTree = Any

Batch = Mapping[str, Any]
"""Arrays with a leading axis `[B]`, on the host (NumPy) or on a device.

Always present:
    `image`   `[B, H, W, C]`, uint8 0..255 or float32 0..1;
    `index`   `[B]` int32, the example's place in the global batch;
    `weight`  `[B]` float32, 0 marks padding;
    `size`    `[B, 2]` int32, the true height and width before padding.
By kind of data:
    `label`   `[B, H, W]` int32, -1 is ignored (partition or classes); or `[B]`, the class of the
              whole image;
    `labels`  `[B, A, H, W]` int32, one map per annotator; an absent one is -1 everywhere;
    `masks`   `[B, N, H, W]` bool with `valid` `[B, N]` bool (instances; they may overlap), and
              where they are of several classes `kinds` `[B, N]` int32, the class of each, -1 where
              there is none; `crowd` `[B, N]` bool marks those that stand for many;
    `points`  `[B, P, 2]` float32, (row, column) in pixels whose centres are integers, with `kinds`
              `[B, P]` int32, which keypoint each is, -1 where there is none.
Where the loss weighs pixels:
    `pixel_weight` `[B, H, W]` float32, 0 or more.
Where a method learns from other views of the images (`data.image_views`, `data.pixel_views`):
    `views`   `[B, R, h, w, C]`, as `image`, R views of each;
    `affine`  `[B, R, 2, 3]` float32, brings the maps of a view back into the frame of `image`, as
              `losses.mutual_information_2d` takes it; absent: they are in it, or have no frame.
"""

Prediction = Mapping[str, Any]
"""What a method says of a batch, leaves `[B, ...]`; by kind of method:

    `superpixels` `[B, H, W]` int32, the region of each pixel;
    `classes`     `[B, H, W]` int32, the class of each pixel, with `confidence` `[B, H, W]`, its
                  probability, and on request `probabilities` `[B, H, W, C]`;
    `instances`   `[B, H, W]` int32, the object of each pixel, 0 for none;
    `masks`       `[B, N, H, W]` bool, objects that may overlap, with `scores` `[B, N]` float32 in
                  [0, 1], falling, `kinds` `[B, N]` int32, the class of each, -1 where there is
                  none, and `boxes` `[B, N, 4]` float32 as in `ops.boxes`;
    `coords`      `[B, h, w, 2]` float32, where the nodes of a small grid read the image, in [0, 1]
                  with aligned corners, beside `classes`; see `methods.adaptive`;
    `points`      `[B, P, 2]` float32, with `kinds` `[B, P]` and `scores` `[B, P]`, as in a batch;
    `clusters`    `[B]` or `[B, H, W]` int32, groups that were found without labels, with those of
                  each of S sub-heads, `sub_heads` `[B, S, ...]`; see `methods.iic`.
"""


class InputError(ValueError):
    """Something the user gave (a file, a folder, an option) cannot be used.

    The message is one line that names the thing and the mend. The command line prints it and
    exits with status 2.
    """


class LossOutput(NamedTuple):
    """What a loss returns beside its value."""

    model_state: PyTree
    """New batch statistics, the tree of the `model_state` that came in; {} if there are none."""
    weight: Array | None
    """`[B]`: the weight of each example in the mean, 0 for padding. None: the loss is a scalar
    that couples its batch."""
    metrics: Mapping[str, Array]
    """`[B]` each, averaged with `weight`; scalars where `weight` is None."""


@runtime_checkable
class InitFn(Protocol):
    """`(key, batch) -> (params, model_state)`; reads only shapes of the batch."""

    def __call__(self, key: Array, batch: Batch, /) -> tuple[PyTree, PyTree]:
        """Makes new variables."""
        ...


@runtime_checkable
class LossFn(Protocol):
    """`(params, model_state, batch, key, *, axis_name=None) -> (loss, LossOutput)`.

    The loss is `[B]`, one value per example, with 0 where nothing counts; or a scalar with
    `weight=None` if it couples its batch, summed over `axis_name` with `ops.collective.psum`.
    Draws for one example come from `jax.random.fold_in(key, batch["index"][i])`.
    """

    def __call__(
        self,
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: Array,
        /,
        *,
        axis_name: str | None = None,
    ) -> tuple[Array, LossOutput]:
        """Evaluates the training loss."""
        ...


@runtime_checkable
class PredictFn(Protocol):
    """`(params, model_state, batch) -> Prediction`, on the device, under `jit`.

    Needs only `image` unless the method's documentation says more.
    """

    def __call__(self, params: PyTree, model_state: PyTree, batch: Batch, /) -> Prediction:
        """Predicts."""
        ...


@runtime_checkable
class FinishFn(Protocol):
    """`(prediction, batch) -> Prediction` on the host: what cannot be compiled."""

    def __call__(self, prediction: Prediction, batch: Batch, /) -> Prediction:
        """Completes the prediction of NumPy arrays."""
        ...


def _identity(prediction: Prediction, batch: Batch, /) -> Prediction:
    return prediction


class Method(NamedTuple):
    """A way to learn to segment; all Methods over one variables tree share `init`."""

    init: InitFn
    loss: LossFn
    predict: PredictFn
    finish: FinishFn = _identity


@runtime_checkable
class NetworkInitFn(Protocol):
    """`(key, *inputs) -> variables`, {"params": ..., "batch_stats": ...}."""

    def __call__(self, key: Array, /, *inputs: Array) -> dict[str, PyTree]:
        """Makes new variables; reads only the shapes of the inputs."""
        ...


@runtime_checkable
class NetworkApplyFn(Protocol):
    """`(variables, *inputs, train=False, mask=None, axis_name=None) -> (outputs, batch_stats)`.

    With `train`, batch norm uses the statistics of the batch, over the examples where `mask`
    `[B]` is true and over `axis_name`, and the new running statistics are returned; without it,
    the running ones, unchanged. A network may take a `mask` `[B, H, W]` of pixels too, true inside
    images that are padded at the right and at the bottom; then padding changes nothing inside them.
    """

    def __call__(
        self,
        variables: Mapping[str, PyTree],
        /,
        *inputs: Array,
        train: bool = False,
        mask: Array | None = None,
        axis_name: str | None = None,
    ) -> tuple[Any, PyTree]:
        """Evaluates the network."""
        ...


class Network(NamedTuple):
    """A network as two pure functions."""

    init: NetworkInitFn
    apply: NetworkApplyFn


class Metric(NamedTuple):
    """A measure of predictions: sums travel, means are taken last."""

    measure: Callable[[Prediction, Batch], Any]
    """(prediction, batch) -> sums; on the device, or on the host where the metric says so.
    Examples of weight 0 and pixels of label -1 count for nothing."""
    merge: Callable[[Any, Any], Any]
    """Host, associative; int64 and float64."""
    compute: Callable[[Any], dict[str, float]]
    """sums -> the figures."""
