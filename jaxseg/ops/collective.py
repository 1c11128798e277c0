"""Sums over devices whose gradients agree under `pmap` and under `shard_map`, checked or not.

Inside `shard_map(check_vma=True)` JAX transposes `psum` to a broadcast; inside `pmap` and
`shard_map(check_vma=False)` to another `psum`. Results here are marked as varying over the
devices, which makes the first transpose equal to the second. The rule that follows for both:

    differentiate what each device adds to the loss, then sum the gradients over the devices.

A value that every device holds in full (a loss of a summed joint) is such an addition only after
it is divided by `axis_size`. All collectives of jaxseg are in this file.
"""

import jax
from jaxtyping import Array, PyTree


def axis_size(axis_name: str | None) -> int:
    """The number of devices along `axis_name`; 1 for None."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def vary(tree: PyTree, axis_name: str | None) -> PyTree:
    """Marks every leaf as different on each device; the values stay.

    The gradient of a replicated leaf used through `vary` is the device's own share of it.
    """
    if axis_name is None:
        return tree

    def mark(x: Array) -> Array:
        try:
            return jax.lax.pcast(x, axis_name, to="varying")
        except (
            ValueError
        ):  # it varies already; where a type keeps this differs between JAX versions
            return x

    return jax.tree.map(mark, tree)


def psum(tree: PyTree, axis_name: str | None) -> PyTree:
    """Sums every leaf over `axis_name`, differentiably; the identity for None.

    Use it inside a loss or a network; its transpose is the same sum.
    """
    return tree if axis_name is None else vary(jax.lax.psum(tree, axis_name), axis_name)


def total(tree: PyTree, axis_name: str | None) -> PyTree:
    """Sums every leaf over `axis_name` into a replicated value; not to be differentiated.

    What leaves `shard_map` through `out_specs=P()` must come from here.
    """
    return tree if axis_name is None else jax.lax.psum(vary(tree, axis_name), axis_name)
