"""The one train step, on toy methods of every kind, however the batch is cut."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys
from jax.sharding import PartitionSpec as P

from jaxseg.train import init_state, make_train_step
from jaxseg.train.optimizers import by_parameter
from jaxseg.train.sharding import compile_step, data_mesh, pad_batch, put_batch
from jaxseg.types import LossOutput, Method

SGD = optax.sgd(0.5)  # Adam would hide a wrong scale.


def start(method, optimizer=SGD, **options):
    return init_state(jax.random.key(1), method, toys.batch(), optimizer, **options)


def plain(method, batch=None, optimizer=SGD, **options):
    step = jax.jit(make_train_step(method.loss, optimizer, **options))
    return step(start(method, optimizer), toys.batch() if batch is None else batch)


def assert_same(one, other, rtol=2e-5, atol=2e-6):
    (state, metrics), (state_2, metrics_2) = jax.device_get((one, other))
    drop = {"key": None}
    chex.assert_trees_all_close(
        state._replace(**drop), state_2._replace(**drop), rtol=rtol, atol=atol
    )
    chex.assert_trees_all_close(dict(metrics), dict(metrics_2), rtol=rtol, atol=atol)


def mapped(method, how, accumulate=1):
    """One step inside pmap or shard_map over eight devices."""
    step = make_train_step(method.loss, SGD, axis_name="data", accumulate=accumulate)
    state, batch = start(method), toys.batch()
    if how == "pmap":
        cut = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
        copies = jax.tree.map(lambda x: jnp.stack([x] * 8), state)
        out = jax.pmap(step, axis_name="data")(copies, cut)
        return jax.tree.map(lambda x: x[3], out)
    sharded = jax.shard_map(
        step,
        mesh=data_mesh(),
        in_specs=(P(), P("data")),
        out_specs=P(),
        check_vma=how == "checked",
    )
    return jax.jit(sharded)(state, batch)


@pytest.mark.parametrize("name", toys.ALL)
def test_loss_is_the_weighted_mean(name):
    method, batch = toys.ALL[name](), jax.tree.map(jnp.asarray, toys.batch())
    state, metrics = plain(method)
    first = start(method)
    key = jax.random.fold_in(first.key, 0)

    def mean(params):
        value, out = method.loss(params, first.model_state, batch, key)
        w = out.weight
        return value if w is None else jnp.sum(w * value) / jnp.sum(w)

    loss, grads = jax.value_and_grad(mean)(first.params)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-4)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, first.params, grads)
    chex.assert_trees_all_close(state.params, expected, rtol=2e-5, atol=2e-6)
    assert int(state.step) == 1


@pytest.mark.parametrize("name", toys.ALL)
def test_eight_devices_under_jit_equal_one(name):
    method = toys.ALL[name]()
    mesh = data_mesh()
    step = compile_step(make_train_step(method.loss, SGD), mesh)
    state = jax.device_put(start(method), jax.NamedSharding(mesh, P()))
    got = step(state, put_batch(toys.batch(), mesh))
    assert got[0].params[next(iter(got[0].params))] is not None
    assert_same(got, plain(method))


@pytest.mark.parametrize("how", ["pmap", "checked", "unchecked"])
@pytest.mark.parametrize("name", toys.ALL)
def test_mapped_devices_equal_one(name, how):
    method = toys.ALL[name]()
    assert_same(mapped(method, how), plain(method))


@pytest.mark.parametrize("name", ["two_heads", "instances"])
def test_accumulation_changes_nothing(name):
    method = toys.ALL[name]()
    for count in (2, 4):
        assert_same(plain(method, accumulate=count), plain(method))
    assert_same(mapped(method, "checked", accumulate=2), plain(method))


def test_accumulation_averages_batch_statistics_by_weight():
    method, batch = toys.two_networks(), toys.batch()
    state, _ = plain(method, accumulate=2)
    halves = [jax.tree.map(lambda x, j=j: x[j::2], batch) for j in range(2)]
    states = [plain(method, half)[0].model_state for half in halves]
    weights = [half["weight"].sum() for half in halves]
    expected = jax.tree.map(lambda a, b: (weights[0] * a + weights[1] * b) / sum(weights), *states)
    chex.assert_trees_all_close(state.model_state, expected, rtol=1e-5)


def test_accumulation_refuses_a_coupled_loss():
    with pytest.raises(ValueError, match="couples its batch"):
        plain(toys.coupled(), accumulate=2)


@pytest.mark.parametrize("name", toys.ALL)
def test_padding_changes_nothing(name):
    method, batch = toys.ALL[name](), toys.batch(14)
    assert_same(plain(method, pad_batch(batch, 16)), plain(method, batch))
    assert batch["weight"].shape == (14,)


def test_ignored_pixels_change_nothing():
    method, batch = toys.two_heads()[0], toys.batch()
    changed = dict(batch)
    changed["image"] = np.where((batch["label"] < 0)[..., None], 7.0, batch["image"])
    assert_same(plain(method, batch), plain(method, changed))


def test_the_split_of_a_batch_does_not_change_its_draws():
    method, batch = toys.instances(), toys.batch()
    order = np.random.default_rng(1).permutation(16)
    assert_same(plain(method, batch), plain(method, {k: v[order] for k, v in batch.items()}))


def test_two_methods_share_one_tree():
    one, two = toys.two_heads()
    before = start(one)
    after, _ = jax.jit(make_train_step(two.loss, SGD))(before, toys.batch())
    chex.assert_trees_all_equal(before.params["one"], after.params["one"])
    assert not np.allclose(before.params["two"], after.params["two"])


def test_bfloat16_network_keeps_float32_state():
    state, metrics = plain(toys.two_networks(jnp.bfloat16))
    reference, _ = plain(toys.two_networks())
    assert {x.dtype for x in jax.tree.leaves((state.params, state.model_state))} == {
        jnp.dtype("float32")
    }
    assert metrics["loss"].dtype == jnp.float32
    chex.assert_trees_all_close(state.params, reference.params, atol=0.05)
    leaves = zip(jax.tree.leaves(state.params), jax.tree.leaves(reference.params), strict=True)
    assert any(np.any(a != b) for a, b in leaves), "the network did not compute in bfloat16"


def test_moving_averages():
    method = toys.two_networks()
    step = jax.jit(make_train_step(method.loss, SGD, ema_decay=0.9), donate_argnums=0)
    state = start(method, ema=True)
    first = jax.device_get(state)
    chex.assert_trees_all_equal(first.ema["params"], first.params)
    state, _ = step(state, toys.batch())
    second = jax.device_get(state)
    for name in ("params", "model_state"):
        expected = jax.tree.map(
            lambda a, b: 0.9 * a + 0.1 * b, first.ema[name], getattr(second, name)
        )
        chex.assert_trees_all_close(second.ema[name], expected, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="ema_decay"):
        plain(method, ema_decay=0.9)


def test_a_step_that_is_not_finite_changes_nothing():
    method, batch = toys.two_networks(), toys.batch()
    batch["image"] = batch["image"] * np.float32(np.inf)
    before = start(method)
    after, metrics = plain(method, batch)
    assert not metrics["ok"]
    assert int(after.step) == 1
    chex.assert_trees_all_equal(
        jax.device_get(before._replace(key=None, step=None)),
        jax.device_get(after._replace(key=None, step=None)),
    )


def test_a_batch_of_padding_alone_has_no_gradient():
    batch = toys.batch()
    batch["weight"] *= 0
    optimizer = optax.adam(0.1)
    for name in ("two_heads", "two_networks", "instances"):
        method = toys.ALL[name]()
        step = jax.jit(make_train_step(method.loss, optimizer))
        before, _ = step(start(method, optimizer), toys.batch())
        after, metrics = step(before, batch)
        assert metrics["ok"]
        assert metrics["grad_norm"] == 0
        # Momentum and batch statistics stay too.
        chex.assert_trees_all_equal(
            *jax.device_get([s._replace(key=None, step=None) for s in (before, after)])
        )


def test_frozen_parameters_do_not_move_and_factors_scale_updates():
    method = toys.two_heads()[0]
    decaying = optax.adamw(1e-2, weight_decay=0.3)
    factors = {"trunk": 0.0, "one": 0.1, "two": 1.0}
    optimizer = by_parameter(decaying, lambda path: factors[path])
    before = start(method, optimizer)
    after, _ = plain(method, optimizer=optimizer)
    reference, _ = plain(method, optimizer=decaying)
    np.testing.assert_array_equal(before.params["trunk"], after.params["trunk"])
    np.testing.assert_allclose(
        after.params["one"] - before.params["one"],
        0.1 * (reference.params["one"] - before.params["one"]),
        rtol=1e-3,
        atol=1e-7,
    )
    np.testing.assert_allclose(after.params["two"], reference.params["two"], rtol=1e-5)


@pytest.mark.parametrize("how", ["plain", "checked"])
def test_flags_and_counts_are_averaged_like_any_metric(how):
    base = toys.two_heads()[0]

    def loss(*arguments, **options):
        value, out = base.loss(*arguments, **options)
        metrics = {"count": jnp.full(value.shape, 4), "flag": value > -1, "half": value > 1e9}
        return value, out._replace(metrics=metrics)

    method = base._replace(loss=loss)
    _, metrics = plain(method) if how == "plain" else mapped(method, how)
    assert [float(metrics[n]) for n in ("count", "flag", "half")] == [4.0, 1.0, 0.0]


def test_float64_gradients_are_divided_in_float64(x64):
    def loss(params, model_state, batch, key, *, axis_name=None):
        value = params["a"] * jnp.ones(3)
        return value, LossOutput(model_state, batch["weight"], {})

    state = init_state(
        jax.random.key(0), Method(lambda key, batch: ({"a": jnp.ones(())}, {}), loss, None), {}, SGD
    )
    step = make_train_step(loss, SGD)
    after, _ = step(state, {"weight": jnp.ones(3, jnp.float32)})
    assert after.params["a"].dtype == jnp.float64
    np.testing.assert_allclose(after.params["a"], 0.5, rtol=1e-15)


def test_the_step_is_traced_once():
    method = toys.two_networks()
    step = jax.jit(chex.assert_max_traces(make_train_step(method.loss, SGD), n=1))
    state = start(method)
    for seed in range(3):
        state, _ = step(state, toys.batch(seed=seed))
    assert int(state.step) == 3


def test_shapes_that_break_the_contract_are_named():
    method = toys.two_heads()[0]

    def scalar(*arguments, **options):
        value, out = method.loss(*arguments, **options)
        return jnp.mean(value), out

    with pytest.raises(ValueError, match="one value per example"):
        jax.jit(make_train_step(scalar, SGD))(start(method), toys.batch())
    with pytest.raises(ValueError, match="does not divide"):
        plain(method, accumulate=3)
    with pytest.raises(ValueError, match="at least 1"):
        make_train_step(method.loss, SGD, accumulate=0)
