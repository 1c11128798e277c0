"""The contract of a Method: what the train step, the loop and the predictor rely on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from jaxseg.testing._contract import (
    TraceCounter,
    assert_close,
    assert_finite,
    contract,
    host,
    require,
)
from jaxseg.train.sharding import AXIS, data_mesh, pad_batch, replicated, spread
from jaxseg.train.state import TrainState, init_state
from jaxseg.train.step import make_train_step
from jaxseg.types import Batch, Method, PyTree

PREDICT_FROM = ("image", "index", "weight", "size")


def check_method(
    method: Method,
    batch: Batch,
    *,
    key: jax.Array | None = None,
    tolerance: float = 1e-4,
    accumulation_exact: bool = True,
    predict_from: tuple[str, ...] = PREDICT_FROM,
    unequal_labels: float = 0.0,
) -> None:
    """Checks a Method against `types.Method`, in training on every kind of device layout.

    The contracts, by the names that failures begin with:

        init        works under `jit` and reads only shapes and types: a batch of zeros gives the
                    same variables, another key the same tree; no variable is NaN;
        loss        float `[B]` with weight `[B]` and metrics `[B]`, or scalars where the weight is
                    None; the model state keeps its tree; nothing is infinite or NaN;
        padding     an example of weight 0 more changes nothing;
        empty       a batch of weight 0 alone has a finite loss and the gradient 0;
        order       permuted examples, their `index` with them, have permuted losses and the same
                    gradient: draws follow `index`, not the place;
        unlabelled  where every label is -1 and no instance valid, losses and gradients are
                    finite;
        trace       a second step, on the state that came back, traces nothing;
        mesh, pmap, shard_map
                    one step on all devices is the step on one: the gradient itself, the metrics
                    and the new model state, with `check_vma` True and False;
        accumulate  two micro-batches give what one batch gives; a loss that couples its batch
                    is refused with ValueError;
        predict     under `jit` equals eager, from the arrays of `predict_from` alone; leaves are
                    `[B, ...]`;
        finish      takes NumPy arrays and gives NumPy arrays `[B, ...]`.

    Examples get uneven weights, since even ones hide a wrong mean, and the gradient is compared
    itself, since Adam hides a wrong scale.

    Args:
        method: with few parameters and, if it has batch norm, over more than one example.
        batch: small, on the host, some pixels of label -1; of a size that twice the number of
            devices divides.
        key: of the variables and draws.
        tolerance: of floats, relative to the largest entry of a leaf (a hundredth of the tree's
            largest is added, for leaves that are 0 but for rounding).
        accumulation_exact: False for a method with batch norm, whose statistics are those of
            a micro-batch: then only the tree, the types and finiteness are compared.
        predict_from: what the predictor will give; more than the default only where the
            method's documentation says so.
        unequal_labels: fraction of a predicted integer map that compilation may change,
            where two classes are equal but for rounding.

    Raises:
        AssertionError: a contract is broken; the message begins with its name.
        ValueError: the batch lacks `image`, `index`, `weight` or `size`, or cannot be cut.
    """
    key = jax.random.key(0) if key is None else key
    batch = _uneven(batch)
    run = _Run(method, batch, key, tolerance)
    for name, check in (
        ("init", _check_init),
        ("loss", _check_loss),
        ("padding", _check_padding),
        ("empty", _check_empty),
        ("order", _check_order),
        ("unlabelled", _check_unlabelled),
        ("trace", _check_trace),
        ("mesh", _check_mesh),
        ("pmap", _check_pmap),
        ("shard_map", _check_shard_map),
    ):
        with contract(name):
            check(run)
    with contract("accumulate"):
        _check_accumulate(run, accumulation_exact)
    _check_predictions(run, predict_from, unequal_labels)


def _uneven(batch: Batch) -> dict[str, Any]:
    missing = set(PREDICT_FROM) - set(batch)
    if missing:
        raise ValueError(f"the batch lacks {sorted(missing)}; see types.Batch")
    size, devices = len(batch["weight"]), jax.local_device_count()
    if size % (2 * devices):
        raise ValueError(f"a batch of {size}: expected a multiple of {2 * devices}, two a device")
    batch = {name: np.array(x) for name, x in batch.items()}
    factors = np.resize(np.array([1.0, 0.5, 1.5, 0.25, 2.0], np.float32), size)
    batch["weight"] = batch["weight"] * factors
    return batch


def _record() -> optax.GradientTransformation:
    """Gradient descent that keeps the last gradient as its state."""

    def update(gradient: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return jax.tree.map(lambda g: -0.1 * g, gradient), gradient

    return optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), update)


class _Run:
    """A method with its variables and one plain step, which every other must equal."""

    def __init__(self, method: Method, batch: dict[str, Any], key: jax.Array, tolerance: float):
        self.method, self.batch, self.key, self.tolerance = method, batch, key, tolerance
        self.optimizer = _record()
        with contract("init"):
            self.state = jax.jit(lambda key: init_state(key, method, batch, self.optimizer))(key)
        self.counted = TraceCounter(self.step())
        self.compiled = jax.jit(self.counted)
        self._plain: PyTree = None

    def step(self, **options: Any) -> Callable:
        return make_train_step(self.method.loss, self.optimizer, **options)

    @property
    def plain(self) -> PyTree:
        if self._plain is None:
            self._plain = _summary(self.compiled(self.state, self.batch))
        return self._plain

    def loss(self, batch: Batch) -> tuple[Any, Any]:
        params, model_state = self.state.params, self.state.model_state
        return jax.jit(self.method.loss)(params, model_state, batch, self.key)

    def assert_same(self, result: Any) -> None:
        got = _summary(result)
        for name, expected in self.plain.items():
            with contract(name):
                assert_close(got[name], expected, self.tolerance)


def _summary(result: tuple[TrainState, Any]) -> dict[str, PyTree]:
    """What must not depend on how the batch was cut."""
    state, metrics = host(result)
    metrics = {name: x for name, x in metrics.items() if name != "grad_norm"}
    return {"gradient": state.opt_state, "model_state": state.model_state, "metrics": metrics}


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def _check_init(run: _Run) -> None:
    init = jax.jit(run.method.init)
    variables = init(run.key, run.batch)
    zeros = {name: np.zeros_like(x) for name, x in run.batch.items()}
    assert_close(init(run.key, zeros), variables, 0.0)
    assert_finite(variables, "variables")
    other = jax.eval_shape(run.method.init, jax.random.fold_in(run.key, 1), zeros)
    require(
        _shapes(other) == _shapes(variables), "another key gives a tree of other shapes or types"
    )


def _check_loss(run: _Run) -> None:
    value, out = run.loss(run.batch)
    shape = () if out.weight is None else (len(run.batch["weight"]),)
    named = {"loss": value, **out.metrics}
    if out.weight is not None:
        named["weight"] = out.weight
    for name, x in named.items():
        require(
            jnp.shape(x) == shape,
            f"{name} has the shape {jnp.shape(x)}, expected {shape}"
            + (", since weight is None" if out.weight is None else ""),
        )
        assert_finite(x, name)
    require(jnp.issubdtype(value.dtype, jnp.floating), f"the loss is {value.dtype}, not a float")
    before, after = (
        jax.eval_shape(lambda x=x: x) for x in (run.state.model_state, out.model_state)
    )
    require(before == after, f"the model state was {before} and became {after}")
    require(bool(run.plain["metrics"]["ok"]), "the gradient is not finite")


def _check_padding(run: _Run) -> None:
    run.assert_same(run.compiled(run.state, pad_batch(run.batch, len(run.batch["weight"]) + 1)))


def _check_empty(run: _Run) -> None:
    empty = {**run.batch, "weight": np.zeros_like(run.batch["weight"])}
    state, metrics = run.compiled(run.state, empty)
    require(bool(metrics["ok"]), "the loss or its gradient is not finite")
    coupled = run.loss(empty)[1].weight is None
    require(
        coupled or metrics["grad_norm"] == 0, f"the gradient's norm is {metrics['grad_norm']:.3g}"
    )
    if not coupled:
        same = jax.tree.map(np.array_equal, host(state.model_state), host(run.state.model_state))
        require(all(jax.tree.leaves(same)), "the model state moved")


def _check_order(run: _Run) -> None:
    order = np.random.default_rng(0).permutation(len(run.batch["weight"]))
    permuted = {name: x[order] for name, x in run.batch.items()}
    value, _ = run.loss(permuted)
    expected, _ = run.loss(run.batch)
    assert_close(value, expected[order] if expected.ndim else expected, run.tolerance)
    run.assert_same(run.compiled(run.state, permuted))


def _check_unlabelled(run: _Run) -> None:
    nothing = {"label": -1, "labels": -1, "masks": False, "valid": False}
    changed = {
        name: np.full_like(x, nothing[name]) if name in nothing else x
        for name, x in run.batch.items()
    }
    value, _ = run.loss(changed)
    assert_finite(value, "loss")
    require(bool(run.compiled(run.state, changed)[1]["ok"]), "the gradient is not finite")


def _check_trace(run: _Run) -> None:
    state, _ = run.compiled(run.state, run.batch)
    traces = run.counted.traces
    rolled = {name: np.roll(x, 1, axis=0) for name, x in run.batch.items()}
    state, _ = run.compiled(state, rolled)
    require(run.counted.traces == traces, "a second step on the same shapes was traced again")
    require(int(state.step) == 2, f"the step number is {int(state.step)} after two steps")


def _check_mesh(run: _Run) -> None:
    mesh = data_mesh(jax.local_devices())
    whole, cut = replicated(mesh), spread(mesh)
    step = jax.jit(run.step(), in_shardings=(whole, cut), out_shardings=(whole, whole))
    run.assert_same(step(run.state, run.batch))


def _check_pmap(run: _Run) -> None:
    count = jax.local_device_count()
    cut = {name: x.reshape(count, -1, *x.shape[1:]) for name, x in run.batch.items()}
    copies = jax.tree.map(lambda x: jnp.stack([x] * count), run.state)
    result = jax.pmap(run.step(axis_name=AXIS), axis_name=AXIS)(copies, cut)
    run.assert_same(jax.tree.map(lambda x: x[-1], result))


def _shard_map(run: _Run, check_vma: bool, **options: Any) -> Any:
    step = jax.shard_map(
        run.step(axis_name=AXIS, **options),
        mesh=data_mesh(jax.local_devices()),
        in_specs=(P(), P(AXIS)),
        out_specs=P(),
        check_vma=check_vma,
    )
    return jax.jit(step)(run.state, run.batch)


def _check_shard_map(run: _Run) -> None:
    for check_vma in (True, False):
        with contract(f"check_vma={check_vma}"):
            run.assert_same(_shard_map(run, check_vma))


def _check_accumulate(run: _Run, exact: bool) -> None:
    step = jax.jit(run.step(accumulate=2))
    _, out = jax.eval_shape(
        run.method.loss, run.state.params, run.state.model_state, run.batch, run.key
    )
    if out.weight is None:
        try:
            step(run.state, run.batch)
        except ValueError:
            return
        raise AssertionError("a loss that couples its batch was accumulated")
    result = step(run.state, run.batch)
    if exact:
        run.assert_same(result)
    else:
        require(_shapes(_summary(result)) == _shapes(run.plain), "other shapes or types")
        require(bool(result[1]["ok"]), "the gradient is not finite")


def _check_predictions(run: _Run, names: tuple[str, ...], unequal: float) -> None:
    size = len(run.batch["weight"])
    batch = {name: run.batch[name] for name in names}
    on_device = jax.device_put(batch)
    arguments = run.state.params, run.state.model_state, on_device
    with contract("predict"):
        prediction = host(jax.jit(run.method.predict)(*arguments))
        _check_leading(prediction, size)
        assert_finite(prediction, "prediction")
        assert_close(prediction, run.method.predict(*arguments), run.tolerance, unequal)
    with contract("finish"):
        finished = run.method.finish(prediction, batch)
        for x in jax.tree.leaves(finished):
            require(isinstance(x, np.ndarray), f"a leaf is a {type(x).__name__}, not a NumPy array")
        _check_leading(finished, size)


def _check_leading(tree: PyTree, size: int) -> None:
    leaves = jax.tree.leaves_with_path(tree)
    require(leaves, "nothing is predicted")
    for path, x in leaves:
        name = jax.tree_util.keystr(path)
        require(
            np.shape(x)[:1] == (size,), f"{name} is {list(np.shape(x))}, expected [{size}, ...]"
        )
