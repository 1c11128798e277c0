"""Small methods of every kind that the train step must serve, on `[B, 4, 4, 3]` images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.models.layers import BatchNorm
from jaxseg.models.network import network
from jaxseg.ops import collective
from jaxseg.types import LossOutput, Method

SIZE = 4


def batch(size=16, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.random((size, SIZE, SIZE, 3), np.float32),
        "label": rng.integers(-1, 3, (size, SIZE, SIZE)).astype(np.int32),
        "masks": rng.random((size, 5, SIZE, SIZE)) < 0.4,
        "valid": rng.random((size, 5)) < 0.6,
        "index": np.arange(size, dtype=np.int32),
        "weight": rng.integers(0, 4, size).astype(np.float32) / 2,
        "size": np.full((size, 2), SIZE, np.int32),
    }


def pixel_loss(logits, label):
    """Mean cross-entropy over the pixels that are not ignored, [B]."""
    counts = label >= 0
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    picked = jnp.take_along_axis(log_p, jnp.maximum(label, 0)[..., None], -1)[..., 0]
    return -jnp.sum(picked * counts, (1, 2)) / jnp.maximum(jnp.sum(counts, (1, 2)), 1)


def two_heads():
    """Two Methods over one tree: a shared trunk, each trains its own head."""

    def init(key, batch):
        a, b, c = jax.random.split(key, 3)
        return {
            "trunk": jax.random.normal(a, (3, 4)),
            "one": jax.random.normal(b, (4, 3)),
            "two": jax.random.normal(c, (4, 3)),
        }, {}

    def make(head):
        def logits(params, batch):
            return jnp.tanh(batch["image"] @ params["trunk"]) @ params[head]

        def loss(params, model_state, batch, key, *, axis_name=None):
            value = pixel_loss(logits(params, batch), batch["label"])
            return value, LossOutput(model_state, batch["weight"], {"ce": value})

        def predict(params, model_state, batch):
            return {"classes": jnp.argmax(logits(params, batch), -1).astype(jnp.int32)}

        return Method(init, loss, predict)

    return make("one"), make("two")


class _Net(nn.Module):
    outputs: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, *, train=False, mask=None, axis_name=None):
        y = nn.Conv(8, (3, 3), dtype=self.dtype)(x)
        y = BatchNorm(0.9, dtype=self.dtype)(y, train=train, mask=mask, axis_name=axis_name)
        return nn.Conv(self.outputs, (1, 1), dtype=self.dtype)(nn.relu(y))


def two_networks(dtype=jnp.float32):
    """A classifier and a reconstructor: two networks with batch norm, two terms in the loss."""
    nets = {"classify": network(_Net(3, dtype)), "rebuild": network(_Net(3, dtype))}

    def init(key, batch):
        variables = {
            name: net.init(k, jnp.zeros(batch["image"].shape))
            for (name, net), k in zip(nets.items(), jax.random.split(key), strict=True)
        }
        return (
            {name: v["params"] for name, v in variables.items()},
            {name: v["batch_stats"] for name, v in variables.items()},
        )

    def apply(name, params, model_state, batch, **options):
        variables = {"params": params[name], "batch_stats": model_state[name]}
        return nets[name].apply(variables, batch["image"], **options)

    def loss(params, model_state, batch, key, *, axis_name=None):
        options = {"train": True, "mask": batch["weight"] > 0, "axis_name": axis_name}
        logits, one = apply("classify", params, model_state, batch, **options)
        image, two = apply("rebuild", params, model_state, batch, **options)
        ce = pixel_loss(logits, batch["label"])
        mse = jnp.mean((image.astype(jnp.float32) - batch["image"]) ** 2, (1, 2, 3))
        state = {"classify": one, "rebuild": two}
        return ce + 0.3 * mse, LossOutput(state, batch["weight"], {"ce": ce, "mse": mse})

    def predict(params, model_state, batch):
        logits, _ = apply("classify", params, model_state, batch)
        return {"classes": jnp.argmax(logits, -1).astype(jnp.int32)}

    return Method(init, loss, predict)


def instances():
    """Random pixels of padded instances, drawn per example."""

    def init(key, batch):
        return {"kernel": jax.random.normal(key, (3, 2))}, {}

    def loss(params, model_state, batch, key, *, axis_name=None):
        def one(image, masks, valid, index):
            draws = jax.random.uniform(jax.random.fold_in(key, index), masks.shape[1:])
            chosen = masks & (draws < 0.7)[None] & valid[:, None, None]
            embedding = image @ params["kernel"]
            count = jnp.sum(chosen, (1, 2)).astype(jnp.float32)
            weights = chosen.astype(jnp.float32)
            mean = jnp.einsum("nhw,hwc->nc", weights, embedding)
            mean = mean / jnp.maximum(count, 1)[:, None]
            distance = jnp.sum((embedding[None] - mean[:, None, None]) ** 2, -1)
            spread = jnp.sum(distance * weights, (1, 2)) / jnp.maximum(count, 1)
            return jnp.sum(spread) / jnp.maximum(jnp.sum(count > 0), 1)

        value = jax.vmap(one)(batch["image"], batch["masks"], batch["valid"], batch["index"])
        return value, LossOutput(model_state, batch["weight"], {"spread": value})

    def predict(params, model_state, batch):
        return {"embedding": batch["image"] @ params["kernel"]}

    return Method(init, loss, predict)


def coupled():
    """Mutual information of two halves of the image: one joint over the whole batch."""

    def init(key, batch):
        return {"kernel": jax.random.normal(key, (3, 4))}, {}

    def loss(params, model_state, batch, key, *, axis_name=None):
        p = jax.nn.softmax(3 * jnp.mean(batch["image"], 1) @ params["kernel"])  # [B, W, 4]
        w = batch["weight"][:, None, None]
        joint = jnp.einsum("bi,bj->ij", w[:, 0] * p[:, 0], p[:, 1])
        joint = collective.psum(joint, axis_name)
        joint = (joint + joint.T) / jnp.maximum(2 * collective.psum(jnp.sum(w), axis_name), 1e-9)
        marginal = jnp.sum(joint, 0)
        information = jnp.sum(
            joint * (jnp.log(joint) - jnp.log(marginal)[None] - jnp.log(marginal)[:, None])
        )
        return -information, LossOutput(model_state, None, {"information": information})

    def predict(params, model_state, batch):
        return {"kernel": jnp.broadcast_to(params["kernel"], (len(batch["image"]), 3, 4))}

    return Method(init, loss, predict)


ALL = {
    "two_heads": lambda: two_heads()[0],
    "two_networks": two_networks,
    "instances": instances,
    "coupled": coupled,
}
