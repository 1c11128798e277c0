"""The methods of jaxseg against the contract of a Method, and broken ones that must fail it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.methods import ssn
from jaxseg.models import ssn as networks
from jaxseg.ops import collective
from jaxseg.testing import check_method
from jaxseg.types import LossOutput, Method


def batch(size=16, shape=(24, 20)):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (size, shape[0] // 4, shape[1] // 4))
    label = label.repeat(4, axis=1).repeat(4, axis=2)
    label[rng.random(label.shape) < 0.1] = -1
    return {
        "image": rng.random((size, *shape, 3), np.float32),
        "label": label.astype(np.int32),
        "index": np.arange(size, dtype=np.int32),
        "weight": np.ones(size, np.float32),
        "size": np.full((size, 2), shape, np.int32),
    }


NETWORKS = {
    "pix": networks.pix,
    "linear": lambda: networks.linear(num_features=8),
    "deep": lambda: networks.deep(width=4, num_features=8),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_ssn(name):
    method = ssn.method(NETWORKS[name](), num_superpixels=4, num_iters=3, train_iters=2)
    # A pixel midway between two superpixels may go to either.
    check_method(method, batch(), accumulation_exact=name != "deep", unequal_labels=0.002)


def toy(
    *,
    value=lambda per_pixel, label: jnp.sum(per_pixel * (label >= 0), (1, 2)) / 25,
    output=lambda value, state, batch: (value, LossOutput(state, batch["weight"], {})),
    noise=lambda key, batch: jax.vmap(
        lambda i: jax.random.uniform(jax.random.fold_in(key, i), (5, 5))
    )(batch["index"]),
    init=lambda key, batch: ({"kernel": jax.random.normal(key, (3,))}, {}),
    predict=lambda params, state, batch: {"value": jnp.tanh(batch["image"] @ params["kernel"])},
    finish=lambda prediction, batch: prediction,
):
    """Regression of the label, with noise; every part can be replaced by a broken one."""

    def loss(params, model_state, batch, key, *, axis_name=None):
        told = batch["image"] @ params["kernel"] + 0.1 * noise(key, batch)
        losses = value(jnp.square(told - batch["label"]), batch["label"])
        return output(losses, model_state, batch)

    return Method(init, loss, predict, finish)


def coupled(total=collective.psum, size=None):
    def init(key, batch):
        return {"kernel": jax.random.normal(key, (3,))}, {}

    def loss(params, model_state, batch, key, *, axis_name=None):
        weight = batch["weight"]
        mean = weight @ jnp.tanh(batch["image"] @ params["kernel"]).mean((1, 2))
        count = total(jnp.sum(weight), axis_name)
        mean = total(mean, axis_name) / jnp.where(count > 0, count, 1)
        return mean**2, LossOutput(model_state, None, {"mean": mean})

    def predict(params, model_state, batch):
        return {"value": batch["image"] @ params["kernel"]}

    return Method(init, loss, predict)


SMALL = batch(shape=(8, 8))
SMALL = {**SMALL, "image": SMALL["image"][:, :5, :5], "label": SMALL["label"][:, :5, :5]}


@pytest.mark.parametrize("method", [toy(), coupled()], ids=["toy", "coupled"])
def test_sound_methods_pass(method):
    check_method(method, SMALL)


def _as_example(x, batch):
    return jnp.broadcast_to(x, batch["weight"].shape)


def _eager_only(params, state, batch):
    sign = -1 if isinstance(batch["image"], jax.core.Tracer) else 1
    return {"value": sign * batch["image"] @ params["kernel"]}


def _from_values(key, batch):
    return {"kernel": jnp.asarray(batch["image"][0, 0, 0])}, {}


def _by_place(key, batch):
    return jax.random.uniform(key, (len(batch["index"]), 5, 5))


BROKEN = {
    "loss: a scalar with a weight": toy(
        output=lambda v, s, b: (jnp.mean(v), LossOutput(s, b["weight"], {}))
    ),
    "loss: metrics that are scalars": toy(
        output=lambda v, s, b: (v, LossOutput(s, b["weight"], {"mean": jnp.mean(v)}))
    ),
    "loss: another model state": toy(
        output=lambda v, s, b: (v, LossOutput({"new": v}, b["weight"], {}))
    ),
    "loss: a gradient that is NaN": toy(
        value=lambda x, label: jnp.sum(jnp.sqrt(x * 0), (1, 2)) + jnp.sum(x, (1, 2))
    ),
    "padding: ignores the weight": toy(
        output=lambda v, s, b: (v, LossOutput(s, jnp.ones_like(b["weight"]), {}))
    ),
    "padding: averages over the batch": toy(
        output=lambda v, s, b: (_as_example(jnp.mean(v), b), LossOutput(s, b["weight"], {}))
    ),
    "empty: a coupled loss over nothing": Method(
        *coupled()._replace(
            loss=lambda p, s, b, k, *, axis_name=None: (
                jnp.sum(b["weight"] @ (b["image"] @ p["kernel"]).mean((1, 2)))
                / collective.psum(jnp.sum(b["weight"]), axis_name),
                LossOutput(s, None, {}),
            )
        )
    ),
    "order: noise by place": toy(noise=_by_place),
    "unlabelled: divides by the count of labels": toy(
        value=lambda x, label: jnp.sum(x * (label >= 0), (1, 2)) / jnp.sum(label >= 0, (1, 2))
    ),
    "trace: a weakly typed parameter": toy(
        init=lambda key, batch: ({"kernel": jnp.broadcast_to(jnp.asarray(0.5), (3,))}, {})
    ),
    "pmap: a joint that is not summed": coupled(total=lambda x, axis_name: x),
    "predict: uses the labels": toy(predict=lambda p, s, b: {"value": b["label"]}),
    "predict: drops the batch": toy(predict=lambda p, s, b: {"value": jnp.sum(b["image"])}),
    "predict: another result under jit": toy(predict=_eager_only),
    "finish: stays on the device": toy(finish=lambda p, b: jax.tree.map(jnp.asarray, p)),
    "finish: drops an example": toy(finish=lambda p, b: jax.tree.map(lambda x: x[1:], p)),
    "init: reads values": toy(init=_from_values),
    "init: NaN": toy(init=lambda key, batch: ({"kernel": jnp.full((3,), jnp.nan)}, {})),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_methods_fail(name):
    with pytest.raises(AssertionError) as failure:
        check_method(BROKEN[name], SMALL)
    assert str(failure.value).startswith(name.partition(":")[0] + ": "), failure.value


def test_a_weight_that_a_shard_normalises_fails():
    def output(value, state, batch):
        return value, LossOutput(state, batch["weight"] / jnp.sum(batch["weight"]), {})

    with pytest.raises(AssertionError, match=r"^(empty|pmap|shard_map): "):
        check_method(toy(output=output), SMALL)


def test_accumulation_that_differs_fails():
    """A loss that depends on the size of its batch, but not on padding."""

    def output(value, state, batch):
        share = batch["weight"] / jnp.maximum(jnp.max(batch["weight"]), 1e-6)
        return value * share, LossOutput(state, batch["weight"], {})

    with pytest.raises(AssertionError, match=r"^(pmap|accumulate): "):
        check_method(toy(output=output), SMALL)


def test_bad_batches_are_refused():
    with pytest.raises(ValueError, match="lacks"):
        check_method(toy(), {"image": SMALL["image"]})
    with pytest.raises(ValueError, match="a batch of 9: expected a multiple of 16"):
        check_method(toy(), {name: x[:9] for name, x in SMALL.items()})
