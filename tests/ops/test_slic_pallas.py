"""The kernel for GPUs, run by Pallas' interpreter, beside XLA's version of the same sums."""

import functools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from jaxseg.ops import _blocks, _kmeans, _kmeans_pallas
from jaxseg.ops.slic import soft_slic

pytestmark = pytest.mark.usefixtures("strict_dtypes")
interpreted = functools.partial(_kmeans_pallas.slab_sums, interpret=True)
DEVICES = PartitionSpec("devices")


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()), ("devices",))


def loop(points, matrix):
    """The sums in float64, one cell at a time."""
    sums = np.zeros(matrix.shape)
    for cell in np.ndindex(points.shape[:2]):
        logits = matrix[cell].astype(np.float64) @ points[cell].T
        q = np.exp(logits - logits.max(0))
        sums[cell] = q / q.sum(0) @ points[cell]
    return sums


def image(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def both(x, grid, mask):
    """soft_slic with a loss' gradient."""

    def loss(x):
        out = soft_slic(x, grid, num_iters=3, mask=mask)
        return (out.affinity**2).sum() + jnp.sin(out.centers).sum(), out

    return jax.value_and_grad(loss, has_aux=True)(x)


# Tiles that end inside a cell, cells of many tiles, more cells than programs, padded channels.
@pytest.mark.parametrize(
    "size, grid, channels, masked",
    [
        ((31, 47), (2, 3), 5, False),
        ((70, 61), (1, 2), 20, True),
        ((40, 50), (1, 1), 33, False),
        ((66, 70), (33, 35), 5, True),
        ((3, 9), (3, 3), 20, True),
    ],
)
def test_kernel_equals_xla_and_a_loop(size, grid, channels, masked):
    x = image((*size, channels)) + 3
    mask = jnp.asarray(np.random.default_rng(1).random(size) < 0.6) if masked else None
    layout = _blocks.layout(*size, grid, "floor")

    @jax.jit
    def run(x):
        data = _kmeans.cells(x, mask, layout)
        matrix = _kmeans._distance_matrix(0.1 * data.own, data)
        return data.points, matrix, interpreted(data.points, matrix)

    points, matrix, sums = run(x)
    xla = jax.jit(_kmeans_pallas.plain_slab_sums)(points, matrix)
    scale = abs(xla).max()
    np.testing.assert_allclose(sums / scale, xla / scale, atol=1e-5)
    # What is off the grid has a logit near -1e30; in float64 it counts as little.
    want = loop(np.asarray(points), np.asarray(matrix))
    np.testing.assert_allclose(sums / scale, want / scale, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_soft_slic_is_the_same_with_the_kernel(masked, monkeypatch):
    x, grid = image((26, 35, 5)), (3, 4)
    mask = jnp.asarray(np.random.default_rng(2).random((26, 35)) < 0.5) if masked else None
    run = functools.partial(both, grid=grid, mask=mask)
    want = jax.jit(run)(x)
    monkeypatch.setattr(_kmeans_pallas, "slab_sums", interpreted)
    forced = jax.jit(lambda x: run(x)).trace(x)
    assert "interpret=True" in str(forced.jaxpr)
    got = forced.lower().compile()(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)


def test_vmap_and_many_devices(mesh, monkeypatch):
    x = image((8, 12, 18, 3))
    run = functools.partial(soft_slic, grid=(2, 3), num_iters=3)
    want = jax.tree.map(lambda *a: jnp.stack(a), *map(jax.jit(run), x))
    monkeypatch.setattr(_kmeans_pallas, "slab_sums", interpreted)
    placed = jax.device_put(x, NamedSharding(mesh, DEVICES))
    traced = jax.jit(jax.vmap(run)).trace(placed)
    assert "interpret=True" in str(traced.jaxpr)
    compiled = traced.lower().compile()
    # Each device works on its own images: nothing is sent.
    assert not re.search("all-(gather|reduce|to-all)", compiled.as_text())
    # With check_vma Pallas' interpreter fails by itself; lowering for CUDA is tried below.
    mapped = functools.partial(jax.shard_map, in_specs=DEVICES, out_specs=DEVICES, check_vma=False)
    for got in (compiled(placed), jax.jit(mapped(jax.vmap(run), mesh=mesh))(x)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)


def lowered(f, *arguments):
    return jax.jit(f).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def test_where_the_kernel_runs(mesh):
    def run(x):
        return jax.vmap(functools.partial(soft_slic, grid=(2, 3), num_iters=3))(x)

    x = jax.ShapeDtypeStruct((8, 12, 18, 3), jnp.float32)
    assert lowered(run, x).count("triton") == 1
    for check in (True, False):
        mapped = jax.shard_map(
            lambda x: run(x), mesh=mesh, in_specs=DEVICES, out_specs=DEVICES, check_vma=check
        )
        assert lowered(mapped, x).count("triton") == 1
    assert "triton" not in jax.jit(run).trace(x).lower().as_text()
    half = jax.vmap(_kmeans_pallas.slab_sums, in_axes=(None, 1))
    cells = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 3, 70, 6), (2, 4, 3, 9, 6))]
    assert lowered(half, *cells).count("triton") == 1
    assert jax.eval_shape(half, *cells).shape == (4, 2, 3, 9, 6)
    assert "triton" not in lowered(run, jax.ShapeDtypeStruct((2, 12, 18, 300), jnp.float32))
    with jax.enable_x64(True):
        assert "triton" not in lowered(run, jax.ShapeDtypeStruct(x.shape, jnp.float64))
    # Triton's code is not kept stable: jax.export refuses it.
    for platforms in (("cuda",), ("cpu", "cuda", "tpu")):
        assert "triton" not in jax.export.export(jax.jit(run), platforms=platforms)(x).mlir_module()


def test_derivatives_are_those_of_xla(x64):
    points, matrix = (image((2, 1, n, 3)).astype(jnp.float64) for n in (5, 9))

    @jax.jit
    def run(points, matrix):
        return _kmeans_pallas.slab_sums(jnp.asarray(points), jnp.asarray(matrix))

    check_grads(run, (points, matrix), order=1, modes=["rev"])


def test_cpu_loads_no_pallas():
    code = (
        "import jax, sys, jaxseg.ops.slic as s;"
        "f = lambda x: s.soft_slic(x, (2, 2), num_iters=2);"
        "jax.jit(f).lower(jax.ShapeDtypeStruct((4, 4, 1), 'float32'));"
        "sys.exit('jax.experimental.pallas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
