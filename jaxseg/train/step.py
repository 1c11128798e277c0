"""The train step: one factory for every method.

The loss that is minimised is Σ w·l / Σ w over the examples of the global batch, where l `[B]` and
w `[B]` come from the method. Sums over examples do not depend on how the batch is cut, so
accumulation, sharding and padding change nothing but rounding.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxseg.ops import collective
from jaxseg.train.state import TrainState
from jaxseg.types import Batch, LossFn, PyTree

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, Array]]]


class _Sums(NamedTuple):
    """What adds up over micro-batches and devices."""

    weight: Array
    metrics: dict[str, Array]
    model_state: PyTree  # times weight
    gradient: PyTree


def make_train_step(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
    axis_name: str | None = None,
) -> TrainStep:
    """Makes a pure, un-jitted `(TrainState, Batch) -> (TrainState, metrics)`.

    Under `jit`, also over a mesh with the batch sharded, leave `axis_name` None: the batch is
    global there. Inside `pmap` or `shard_map` (`check_vma` either way) give it.

    Args:
        loss: see `types.LossFn`.
        optimizer: any; its state is `state.opt_state`.
        accumulate: number of micro-batches whose gradients are summed before the update.
            Micro-batch j takes examples j, j + accumulate, ...; must divide the batch.
        ema_decay: of `state.ema`, which must exist if and only if this is given.
        axis_name: the mapped axis that the batch is spread over.

    Returns:
        The step. Its metrics are replicated float32 scalars: the method's own, `loss`, `grad_norm`
        and `ok` (bool). Where the loss or the gradient is not finite, `ok` is False and the state
        stays as it was, but for the step number; so it does where no example counts.

    Raises:
        ValueError: if accumulate < 1; when traced, if it does not divide the batch, if the loss
            couples its batch and accumulate > 1, or if a shape breaks the contract of `LossFn`.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, got {accumulate}")

    def share(params: PyTree, model_state: PyTree, batch: Batch, key: Array) -> tuple[Array, _Sums]:
        value, out = loss(params, model_state, batch, key, axis_name=axis_name)
        if out.weight is None:
            if accumulate > 1:
                raise ValueError(
                    f"this loss couples its batch (weight=None), so accumulate={accumulate} would "
                    "change it; use accumulate=1 and more devices"
                )
            weight, weigh = jnp.ones(()) / collective.axis_size(axis_name), _scalar
        else:
            weight, weigh = out.weight, _per_example
        metrics = {name: weigh(m, weight, name) for name, m in out.metrics.items()}
        value = weigh(value, weight, "loss")
        sums = _Sums(
            weight=jnp.sum(jax.lax.stop_gradient(weight)).astype(jnp.float32),
            metrics={**metrics, "loss": value},
            model_state=out.model_state,
            gradient=None,
        )
        return collective.vary(value, axis_name), sums

    gradient = jax.value_and_grad(share, has_aux=True)

    def micro(params: PyTree, model_state: PyTree, batch: Batch, key: Array) -> _Sums:
        (_, sums), grads = gradient(params, model_state, batch, key)
        return sums._replace(gradient=grads)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Array]]:
        if (state.ema is None) != (ema_decay is None):
            raise ValueError(f"ema_decay is {ema_decay}, but state.ema is {type(state.ema)}")
        key = jax.random.fold_in(state.key, state.step)
        params = collective.vary(state.params, axis_name)
        arguments = (params, collective.vary(state.model_state, axis_name))
        if accumulate == 1:
            sums = micro(*arguments, batch, key)
            if axis_name is not None:
                sums = sums._replace(model_state=_times(sums.model_state, sums.weight))
        else:
            sums = _scan(micro, arguments, _split(batch, accumulate), key, axis_name)
        sums = collective.total(sums, axis_name)

        total = jnp.where(sums.weight > 0, sums.weight, 1.0)
        grads = _over(sums.gradient, total)
        metrics = {name: m / total for name, m in sums.metrics.items()}
        model_state = sums.model_state
        if accumulate > 1 or axis_name is not None:
            model_state = jax.tree.map(
                lambda mean, old: mean.astype(old.dtype),
                _over(model_state, total),
                state.model_state,
            )
        metrics["grad_norm"] = optax.tree.norm(grads)
        ok = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])

        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            new_params = optax.apply_updates(state.params, updates)
        new = TrainState(state.step, state.key, new_params, model_state, opt_state, None)
        if ema_decay is not None:
            variables = {"params": new_params, "model_state": model_state}
            ema = optax.incremental_update(variables, state.ema, 1 - ema_decay)
            new = new._replace(ema=ema)
        # A batch of padding alone must not move momentum and batch statistics either.
        counts = ok & (sums.weight > 0)
        new = jax.tree.map(
            lambda old, new: old if old is new else jnp.where(counts, new, old), state, new
        )
        return new._replace(step=state.step + 1), {**metrics, "ok": ok}

    return step


def _scalar(value: Array, weight: Array, name: str) -> Array:
    if jnp.ndim(value) != 0:
        raise ValueError(f"a loss with weight=None is a scalar, but {name} is {jnp.shape(value)}")
    value = _wide(value)
    return value * weight.astype(value.dtype)


def _per_example(value: Array, weight: Array, name: str) -> Array:
    if value.shape != weight.shape or value.ndim != 1:
        raise ValueError(
            f"{name} must be one value per example, like weight {weight.shape}, "
            f"but it is {value.shape}"
        )
    value = _wide(value)
    weight = jax.lax.stop_gradient(weight).astype(value.dtype)
    return jnp.sum(jnp.where(weight > 0, weight * value, jnp.zeros_like(value)))


def _wide(value: Array) -> Array:
    """Flags and counts are averaged like any metric, and bfloat16 is summed in float32."""
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def _times(tree: PyTree, factor: Array) -> PyTree:
    return jax.tree.map(lambda x: x * factor.astype(jnp.result_type(x, jnp.float32)), tree)


def _over(tree: PyTree, divisor: Array) -> PyTree:
    return jax.tree.map(lambda x: x / divisor.astype(jnp.result_type(x, jnp.float32)), tree)


def _split(batch: Batch, accumulate: int) -> Batch:
    """`[B, ...]` to `[accumulate, B / accumulate, ...]`, strided: shards stay where they are."""

    def split(x: Any) -> Array:
        if x.shape[0] % accumulate:
            raise ValueError(f"accumulate={accumulate} does not divide the batch of {x.shape[0]}")
        strided = jnp.reshape(x, (x.shape[0] // accumulate, accumulate, *x.shape[1:]))
        return jnp.moveaxis(strided, 1, 0)

    return jax.tree.map(split, batch)


def _scan(micro, arguments, batches: Batch, key: Array, axis_name: str | None) -> _Sums:
    def weighted(batch: Batch) -> _Sums:
        sums = micro(*arguments, batch, key)
        return sums._replace(model_state=_times(sums.model_state, sums.weight))

    first = jax.tree.map(lambda x: x[0], batches)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(weighted, first))

    def body(carry: _Sums, batch: Batch) -> tuple[_Sums, None]:
        return jax.tree.map(jnp.add, carry, collective.vary(weighted(batch), axis_name)), None

    return jax.lax.scan(body, collective.vary(zeros, axis_name), batches)[0]
