"""`jaxseg export`, and what `jaxseg evaluate` says of the cost."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import EXPERIMENT, TINY, Jaxseg, files, picture, write_data
from jax.export import deserialize

import jaxseg as package
from jaxseg import weights
from jaxseg.commands.evaluate import _describe
from jaxseg.commands.export import export_prediction
from jaxseg.predictor import Predictor
from jaxseg.recipes import semantic
from jaxseg.types import Method

CONFIG = semantic.Config(num_classes=3, width=2, depth=1, crop=(8, 8), upsampling="bilinear")
SIZE = (12, 18)


@pytest.fixture
def jaxseg(capsys):
    return Jaxseg(capsys)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A file of random weights of a narrow U-Net."""
    path = tmp_path_factory.mktemp("packed") / "tiny.safetensors"
    experiment = semantic.build(CONFIG)
    variables = jax.jit(experiment.method().init)(jax.random.key(0), experiment.example)
    plain = json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    card = weights.Card("tiny", "", "semantic", plain, 3, "0", "", "")
    weights.write_weights(path, card, weights.name_tensors(*jax.device_get(variables)))
    return path


def images(count, size=SIZE):
    return np.stack([picture(i, size) for i in range(count)])


WITHOUT_JAXSEG = """
import pathlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jaxseg", "flax", "optax", "orbax", "jaxtyping"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import jax.export
import numpy as np

program = jax.export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
np.savez(sys.argv[3], **program.call(np.load(sys.argv[2])))
"""


def run_without_jaxseg(file, given, folder):
    """What a new process makes of images, with JAX alone."""
    np.save(folder / "given.npy", given)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAXSEG, file, "given.npy", "made.npz"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "made.npz"))


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        if np.issubdtype(value.dtype, np.integer):
            np.testing.assert_array_equal(found[name], value)
        else:
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6)


class TestExport:
    def test_jax_alone_predicts_the_same(self, jaxseg, packed, tmp_path):
        file = tmp_path / "tiny.bin"
        out = jaxseg.succeeds("export", packed, "-o", file, "--size", *SIZE)
        assert "step 3 written to" in out and "on cpu, cuda, tpu" in out
        assert "images uint8[b,12,18,3] -> classes int32[b,12,18], confidence float32[" in out
        assert "Method.finish" not in out
        found = run_without_jaxseg(file, images(3), tmp_path)
        assert_same(found, package.load(packed).predict({"image": images(3)}))
        assert len(np.unique(found["classes"])) > 1

    def test_superpixels(self, jaxseg, tmp_path):
        file = tmp_path / "ssn.bin"
        command = ("export", "ssn-linear-bsds500", "-o", file, "--size", 40, 56)
        out = jaxseg.succeeds(*command, "--platforms", "cpu,tpu")
        assert "on cpu, tpu" in out and "not in the file" in out and "Method.finish" in out
        found = deserialize(bytearray(file.read_bytes())).call(images(2, (40, 56)))
        expected = package.load("ssn-linear-bsds500").predict({"image": images(2, (40, 56))})
        assert_same(jax.device_get(found), expected)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (("--size", 5, 0), "--size (5, 0): give a height and a width"),
            (("--platforms", "cpu", "abacus"), "--platforms abacus: choose of cpu, cuda"),
            (("--size", 2, 2), "cannot be exported at --size 2 2 (num_superpixels=100"),
            ((), "cannot be written for images of any size; give theirs, --size H W"),
        ],
    )
    def test_wrong_options(self, jaxseg, tmp_path, options, says):
        out = ("-o", tmp_path / "ssn.bin")
        jaxseg.refuses("export", "ssn-linear-bsds500", *out, *options, says=[says])
        assert files(tmp_path) == {}

    def test_wrong_places(self, jaxseg, packed, tmp_path):
        taken = tmp_path / "thesis.txt"
        taken.write_text("years of work")
        before = files(tmp_path)
        for out, says in ((taken, "exists already"), (tmp_path / "no/x", "no such folder; make")):
            jaxseg.refuses("export", packed, "-o", out, says=[says])
        jaxseg.refuses("export", tmp_path / "nope", "-o", tmp_path / "x", says=["no such run"])
        jaxseg.refuses("export", packed, says=["-o"])
        assert files(tmp_path) == before


# A method of one's own, which is traced where it stands.


def plain_method(use):
    """Classes by a product; `use(params, image)` may do what it likes beside it."""

    def predict(params, model_state, batch, /):
        image = batch["image"] / jnp.float32(255) + use(params, batch["image"])
        scores = image @ params["kernel"] + model_state["offset"].reshape(1, 1, 1, -1)
        return {"classes": jnp.argmax(scores, axis=-1).astype(jnp.int32), "scores": scores}

    return Method(None, None, predict)


def make_predictor(use=lambda params, image: 0.0):
    key = jax.random.key(0)
    params = {
        "kernel": jax.random.normal(key, (3, 4)),
        "training": jax.random.normal(key, (300, 300)),
    }
    experiment = semantic.build(CONFIG)._replace(method=lambda: plain_method(use))
    return Predictor(experiment, params, {"offset": jnp.arange(4.0)})


class TestOwnMethods:
    def test_any_size_where_the_method_allows_it(self):
        predictor = make_predictor()
        exported = export_prediction(predictor, "b, h, w, 3", ["cpu"])
        for size in ((2, 9), (31, 4)):
            found = jax.device_get(exported.call(images(2, size)))
            assert_same(found, predictor.predict({"image": images(2, size)}))

    def test_a_unit_of_size(self):
        def mirror(params, image):
            rest = -image.shape[1] % 4
            continued = jnp.pad(image, ((0, 0), (0, rest), (0, 0), (0, 0)), mode="symmetric")
            return jnp.max(continued) * 0

        predictor = make_predictor(mirror)
        with pytest.raises(ValueError, match="symmetric"):
            export_prediction(predictor, "b, h, w, 3", ["cpu"])
        exported = export_prediction(predictor, "b, 32*h, 32*w, 3", ["cpu"])
        given = images(1, (64, 96))
        assert_same(jax.device_get(exported.call(given)), predictor.predict({"image": given}))

    @pytest.mark.parametrize(
        ("use", "kept"),
        [
            (lambda params, image: 0.0, False),
            (lambda params, image: (0.0, params["training"] @ params["training"])[0], False),
            (lambda params, image: params["training"].sum(), True),
        ],
    )
    def test_weights_for_training_alone_are_left_out(self, use, kept):
        predictor = make_predictor(use)
        exported = export_prediction(predictor, "b, 4, 4, 3", ["cpu"])
        assert (len(exported.serialize()) > predictor.params["training"].nbytes) == kept


class TestCost:
    def test_of_an_evaluated_run(self, jaxseg, tmp_path):
        data, run = write_data(tmp_path / "set"), tmp_path / "run"
        jaxseg.succeeds("train", EXPERIMENT, "--data", data, "--workdir", run, *TINY)
        out = jaxseg.succeeds("evaluate", run, "--data", data)
        record = json.loads((run / "evaluation_test.json").read_text())["costs"]["12"]
        parameters = sum(x.size for x in jax.tree.leaves(package.load(run).params))
        assert record["parameters"] == parameters
        assert record["flops"] == 2 * record["macs"] > 0
        assert (record["size"], record["sizes"], record["uncounted"]) == ([40, 56], 1, [])
        words = f"12: {parameters:,} parameters, {record['macs'] / 1e9:.4g} G multiply-accumulates"
        assert words in out and "for an image of 40x56\n" in out

    @pytest.mark.parametrize(
        ("uncounted", "says"),
        [
            ((), "100x200 (the first of 2 sizes)"),
            (("while",), "; loops of unknown length are counted once"),
            (("ffi_call", "while"), "counted once; ffi_call not counted"),
        ],
    )
    def test_what_is_not_counted_is_said(self, uncounted, says):
        cost = {
            "parameters": 12345,
            "macs": 2 * 10**9,
            "flops": 4 * 10**9,
            "size": (100, 200),
            "sizes": 2,
        }
        words = _describe("full", cost | {"uncounted": uncounted})
        assert words.startswith("full: 12,345 parameters, 2 G multiply-accumulates (4 GFLOPs)")
        assert words.endswith(says)
