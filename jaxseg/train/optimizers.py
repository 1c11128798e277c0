"""What Optax leaves to be said: rates by parameter, and the schedules of the field."""

from collections.abc import Callable

import jax
import optax

from jaxseg.types import PyTree


def by_parameter(
    optimizer: optax.GradientTransformation, factor: Callable[[str], float]
) -> optax.GradientTransformation:
    """Multiplies the learning rate of each parameter; a factor of 0 freezes it.

    The factor is applied after `optimizer`, since one before it would cancel in Adam. A frozen
    parameter gets a zero update, so that weight decay does not move it either, and has no moments.

    Args:
        optimizer: for every parameter with a factor other than 0.
        factor: from the parameter's path, such as "encoder/conv1/kernel".
    """

    def factors(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: float(factor(jax.tree_util.keystr(path, simple=True, separator="/"))),
            params,
        )

    def scale_updates(updates: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda u, f: u * f, updates, factors(params))

    scaled = optax.chain(
        optimizer,
        optax.stateless(lambda updates, params: scale_updates(updates, updates)),
    )
    return optax.partition(
        {"trained": scaled, "frozen": optax.set_to_zero()},
        lambda params: jax.tree.map(lambda f: "trained" if f else "frozen", factors(params)),
    )


def polynomial(peak: float, steps: int, *, power: float = 0.9, warmup: int = 0) -> optax.Schedule:
    """The "poly" learning rate, peak·(1 - t / steps)^power, after a linear warm-up."""
    decay = optax.polynomial_schedule(peak, 0.0, power, max(1, steps - warmup))
    return _after_warmup(peak, warmup, decay)


def cosine(peak: float, steps: int, *, warmup: int = 0, end: float = 0.0) -> optax.Schedule:
    """Half a cosine from `peak` to `peak`·`end` at `steps`, after a linear warm-up."""
    decay = optax.cosine_decay_schedule(peak, max(1, steps - warmup), alpha=end)
    return _after_warmup(peak, warmup, decay)


def exponential(peak: float, steps: int, *, warmup: int = 0, end: float) -> optax.Schedule:
    """From `peak` to `peak`·`end` at `steps` by equal ratios, after a linear warm-up."""
    decay = optax.exponential_decay(peak, max(1, steps - warmup), end)
    return _after_warmup(peak, warmup, decay)


def _after_warmup(peak: float, warmup: int, schedule: optax.Schedule) -> optax.Schedule:
    if not warmup:
        return schedule
    rise = optax.linear_schedule(peak / warmup, peak, warmup)
    return optax.join_schedules([rise, schedule], [warmup])
