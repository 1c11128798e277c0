"""Functions that break the contract of an op in one way each; `check_op` must name it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.testing import check_op

X = np.random.default_rng(0).random((4, 3), np.float32)


def _traced(x):
    return isinstance(x, jax.core.Tracer)


@jax.custom_batching.custom_vmap
def _wrong_vmap(x):
    return x - x.mean()


@_wrong_vmap.def_vmap
def _(size, batched, x):
    return x - x.mean(), True


@jax.custom_jvp
def _wrong_sign(x):
    return jnp.sin(x)


_wrong_sign.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), -tangents[0]))


@jax.custom_vjp
def _no_sum(x):
    return x.sum()


_no_sum.defvjp(lambda x: (x.sum(), x), lambda x, g: (g * x,))


class Options:
    """Hashes by identity: equal options are not taken for the same."""


BROKEN = {
    "eager: NaN": (lambda x: jnp.log(x - 2), {}),
    "eager: a tuple of Python numbers": (lambda x: (1.0, x), {}),
    "promotion: of rank": (lambda x: x + jnp.ones(3), {}),
    "promotion: of types": (lambda x: x * jnp.arange(3)[None], {}),
    "jit: a branch on a value": (lambda x: x if x.sum() > 0 else -x, {}),
    "jit: another value": (lambda x: -x if _traced(x) else x, {}),
    "jit: another shape": (lambda x: x[:2] if _traced(x) else x, {}),
    "vmap: its rule mixes examples": (lambda x: _wrong_vmap(x), {}),
    "trace: options that hash by identity": (lambda x, *, o: x, {"o": Options()}),
    "trace: options that do not hash": (lambda x, *, o: x * o[0], {"o": [2.0]}),
    "dtype: narrows float64": (lambda x: x.astype(jnp.float32), {}),
    "dtype: half precision out": (lambda x: x.astype(jnp.bfloat16), {}),
    "dtype: integers widen": (lambda x: (x, jnp.argmax(x, -1)), {}),
    "gradient: NaN where the value is 0": (lambda x: jnp.sqrt(x * 0), {}),
    "gradient: the sign": (lambda x: _wrong_sign(x), {}),
    "gradient: of another function": (lambda x: _no_sum(x), {}),
    "gradient: straight through": (lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x), {}),
    "gradient: of one argument of two": (
        lambda x, *, y: x * jax.lax.stop_gradient(y),
        {"y": 2 * X},
    ),
    "gradient: nothing to differentiate": (lambda x: x > 0.5, {}),
    "export: on the CPU alone": (
        lambda x: x + 0 * jax.scipy.linalg.schur(jax.lax.stop_gradient(x @ x.mT))[0][:, :3],
        {},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_functions_fail(name):
    function, options = BROKEN[name]
    with pytest.raises(AssertionError) as failure:
        check_op(function, X, options=options)
    assert str(failure.value).startswith(name.partition(":")[0] + ": "), failure.value


def test_sound_functions_pass():
    def function(x, axis, *, scale, power=2, mask=None):
        masked = x if mask is None else jnp.where(mask, x, 0)
        return {
            "sum": scale * jnp.sum(masked**power, axis),
            "largest": jnp.argmax(x).astype("int32"),
        }

    got = check_op(function, X, 0, options={"scale": np.float32(3), "power": 3, "mask": X > 0.3})
    np.testing.assert_allclose(got["sum"], 3 * np.sum(np.where(X > 0.3, X, 0) ** 3, 0), rtol=1e-6)


def test_the_gradient_may_be_meant_to_differ_but_not_to_be_nan():
    check_op(lambda x: _wrong_sign(x), X, gradient="finite")
    with pytest.raises(AssertionError, match=r"^gradient: .* not finite"):
        check_op(lambda x: jnp.sqrt(x * 0), X, gradient="finite")
    check_op(lambda x: jnp.sqrt(x * 0), X, gradient="none")


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="nothing to trace"):
        check_op(lambda x: x, 3)
    with pytest.raises(ValueError, match="float64: give float32"):
        check_op(lambda x: x, X.astype(np.float64))
