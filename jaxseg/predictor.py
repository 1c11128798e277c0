"""From a trained run to predictions on images."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.tiles import Progress, SlidingWindow, sliding_window
from jaxseg.train.checkpoint import Checkpoints
from jaxseg.train.experiment import Experiment
from jaxseg.train.run_folder import open_run
from jaxseg.types import Batch, InputError, Method, Prediction, PyTree

_BRIGHTEST = 2.0
"""Resampling overshoots 1 by a little; a float image of 0..255 goes far beyond."""


class Predictor:
    """A trained method, callable on an image.

    Attributes:
        params: parameters, on the default device.
        model_state: batch statistics, likewise.
        experiment: what was trained.
        step: of the checkpoint.
        programs: how many were compiled so far, or found compiled on disk.
    """

    def __init__(self, experiment: Experiment, params: PyTree, model_state: PyTree, step: int = 0):
        """Holds what is given; `load` reads it from a run."""
        self.experiment = experiment
        self.params = params
        self.model_state = model_state
        self.step = step
        self.programs = 0
        self._compiled: dict[Any, tuple[Method, Callable]] = {}

    def __call__(self, image: Any, **options: Any) -> dict[str, np.ndarray]:
        """Predicts for one image of any size.

        Each new size and each new choice of options compiles once.

        Args:
            image: `[H, W, 3]` RGB, uint8 or float in [0, 1].
            **options: of the experiment's method, such as `num_superpixels` for SSN.

        Returns:
            The finished prediction without its batch axis; see `types.Prediction`.

        Raises:
            ValueError: if the image is no such array.
        """
        image = _checked(image)
        batch = {
            "image": image[None],
            "index": np.zeros(1, np.int32),
            "weight": np.ones(1, np.float32),
            "size": np.array([image.shape[:2]], np.int32),
        }
        finished = self.finish(self.predict(batch, **options), batch, **options)
        return {name: np.asarray(np.asarray(value)[0]) for name, value in finished.items()}

    def classes(
        self,
        image: Any,
        *,
        tile: tuple[int, int] | None = None,
        overlap: float = 0.25,
        flips: bool = False,
        scales: Sequence[float] = (1.0,),
        progress: Progress | None = None,
    ) -> SlidingWindow:
        """Predicts the class of every pixel, with test-time augmentation and by tiles if wanted.

        Args:
            image: as in a call.
            tile: height and width of the overlapping tiles by which an image of any size goes
                through in bounded memory, at its own resolution; None: the image as a whole, at
                the size that the experiment predicts at.
            overlap: part of a tile's side; see `jaxseg.tiles.predict_bands`.
            flips: whether to average with the prediction of the mirror image (left and right).
            scales: to average over; factors on the image, or on the size that is predicted at.
            progress: wraps the list of tiles, or of passes, for a progress bar.

        Raises:
            ValueError: an option is out of range, or the method predicts no classes.
        """
        image = _checked(image)
        if tile is not None:
            network = functools.partial(self._probabilities, size=(0, 0))
            return sliding_window(
                network,
                image,
                tile=tile,
                overlap=overlap,
                flips=flips,
                scales=scales,
                progress=progress,
            )
        if not scales:
            raise ValueError("scales is empty: expected one or more")
        passes = [(scale, flip) for scale in scales for flip in (False, True)[: 1 + flips]]
        total: Any = 0.0
        for scale, flip in passes if progress is None else progress(passes, "passes"):
            given = image[:, ::-1] if flip else image
            chances = self._probabilities(given[None], scale=scale)[0]
            total += chances[:, ::-1] if flip else chances
        mean = np.asarray(total) / np.float32(len(passes))
        return SlidingWindow(mean.argmax(axis=-1).astype(np.int32), mean.max(axis=-1))

    def _probabilities(self, images: Any, **options: Any) -> jax.Array:
        try:
            _, predict = self._method({**options, "probabilities": True})
        except TypeError as error:
            raise ValueError(f"this method predicts no classes ({error})") from error
        return predict(self.params, self.model_state, {"image": images})["probabilities"]

    def predict(self, batch: Batch, **options: Any) -> Prediction:
        """Predicts for a batch, up to what is left for `finish`.

        Each new shape and each new choice of options compiles once.

        Args:
            batch: on the host, with what the method needs; those of many sizes, for SSN, come from
                `methods.ssn.bucket_batch`.
            **options: as in a call.

        Returns:
            The method's prediction as NumPy arrays.
        """
        _, predict = self._method(options)
        return jax.device_get(predict(self.params, self.model_state, batch))

    def finish(self, prediction: Prediction, batch: Batch, **options: Any) -> Prediction:
        """Completes what `predict` gave; on the host alone, so that threads may share it."""
        method, _ = self._method(options)
        return method.finish(prediction, batch)

    def _method(self, options: dict[str, Any]) -> tuple[Method, Callable]:
        chosen = tuple(sorted(options.items()))
        if chosen not in self._compiled:
            method = self.experiment.method(**options)

            @functools.wraps(method.predict)
            def predict(*arguments: Any) -> Prediction:
                self.programs += 1  # Runs when it is traced.
                return method.predict(*arguments)

            self._compiled[chosen] = (method, jax.jit(predict))
        return self._compiled[chosen]


def _checked(image: Any) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"expected an RGB image [H, W, 3], got shape {image.shape}")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating) or np.max(image) > _BRIGHTEST:
        raise ValueError(
            f"expected uint8, or floats in [0, 1]; got {image.dtype} up to {np.max(image)}"
        )
    return image.astype(np.float32)


def load(path_or_name: Path | str, *, step: int | Literal["best", "latest"] = "best") -> Predictor:
    """Opens trained weights.

    A run's own copy of its experiment is executed: open only runs that you trust. A file of
    weights executes nothing.

    Args:
        path_or_name: a run's folder, a file of `jaxseg weights pack`, or the name of weights that
            come with jaxseg (`jaxseg weights list`). A string that is such a name means these
            weights; write "./NAME", or give a `Path`, for a run's folder of that name.
        step: of a run: "best" by the experiment's figure, "latest", or the number of a step that
            is kept. A file holds one step, which is both.

    Raises:
        InputError: if there is no such thing, or it is damaged, or has no such step.
    """
    from jaxseg.weights import find, open_weights

    file_of_weights = find(path_or_name)
    if file_of_weights is not None:
        predictor = Predictor(*open_weights(file_of_weights))
        if step not in ("best", "latest", predictor.step):
            raise InputError(f"{path_or_name}: is of step {predictor.step}, not {step}")
        return predictor
    file, config = open_run(path_or_name)
    experiment = file.build(config)
    schedule = experiment.schedule
    folder = Path(path_or_name) / "checkpoints"
    if not folder.is_dir():
        raise InputError(f"{path_or_name}: this run has no checkpoint yet; train first")
    checkpoints = Checkpoints(folder, best=schedule.best, lowest=schedule.lowest, read_only=True)
    if isinstance(step, int):
        if not (folder / str(step)).is_dir():
            raise InputError(f'{folder}: no checkpoint of step {step}; use "best" or "latest"')
        number: int | None = step
    else:
        number = checkpoints.best if step == "best" else checkpoints.latest
    method = experiment.method()
    example = {k: jnp.asarray(v) for k, v in experiment.example.items()}
    like = jax.eval_shape(method.init, jax.random.key(0), example)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params, model_state = checkpoints.restore_variables(like, device, number)
    checkpoints.close()
    return Predictor(experiment, params, model_state, int(number or 0))
