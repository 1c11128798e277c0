"""Files of weights: their bytes, what is refused, and those that come with jaxseg."""

import dataclasses
import json
import os
import re
import shutil
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxseg
from jaxseg import weights
from jaxseg.data import read_image, samples_path
from jaxseg.recipes.superpixels import Config, build
from jaxseg.types import InputError

CONFIG = Config(num_features=7, width=3, num_iters=2, num_superpixels=6)
CARD = weights.Card(
    name="tiny",
    what="SSN_deep of a few channels",
    constructor="superpixels",
    config=json.loads(json.dumps(dataclasses.asdict(CONFIG))),
    step=12,
    jaxseg="0.1.0",
    data="nothing",
    licence="CC0-1.0, für alle",
)
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)


def tensors_of(config, seed=0):
    """Random values in the shapes of the network."""
    experiment = build(config)
    like = jax.eval_shape(experiment.method().init, jax.random.key(0), experiment.example)
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        for name, leaf in weights.name_tensors(*like).items()
    }


def nested(tensors):
    """Dicts in dicts, by the names alone."""
    tree = {}
    for name, value in tensors.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return tree


@pytest.fixture(scope="module")
def tensors():
    return tensors_of(CONFIG)


@pytest.fixture
def file(tmp_path, tensors):
    path = tmp_path / "tiny.safetensors"
    weights.write_weights(path, CARD, tensors)
    return path


def write_raw(path, tensors, metadata=None, **changes):
    """By the library alone, so that what jaxseg would not write can be read."""
    card = {**CARD._asdict(), "config": json.dumps(CARD.config)}
    given = {k: str(v) for k, v in (card | changes).items() if v is not None}
    save_file(tensors, path, metadata=given if metadata is None else metadata)
    return path


class TestFormat:
    def test_bytes_by_the_specification(self, file, tensors):
        """Length, JSON, float32: read without any library of the format."""
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        assert length % 8 == 0
        metadata = header.pop("__metadata__")
        assert json.loads(metadata.pop("config")) == CARD.config
        assert metadata == {
            k: str(v) for k, v in CARD._asdict().items() if k in set(CARD._fields) - {"config"}
        }
        assert set(header) == set(tensors)
        assert "params/conv1/kernel" in header and "batch_stats/conv1_norm/mean" in header
        for name, entry in header.items():
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            assert entry["dtype"] == "F32"
            value = np.frombuffer(data[start:end], "<f4").reshape(entry["shape"])
            np.testing.assert_array_equal(value, tensors[name])

    def test_the_library_reads_it(self, file, tensors):
        found = load_file(file)
        assert set(found) == set(tensors)
        assert all(np.array_equal(found[name], tensors[name]) for name in tensors)

    def test_the_same_bytes_whatever_the_order(self, file, tensors, tmp_path):
        backwards = dict(reversed(tensors.items()))
        other = CARD._replace(config=dict(reversed(CARD.config.items())))
        for i in range(8):  # The library alone would give another order nearly each time.
            weights.write_weights(tmp_path / f"{i}", other, backwards)
            assert (tmp_path / f"{i}").read_bytes() == file.read_bytes()

    def test_round_trip(self, file, tensors):
        card, found = weights.read_weights(file)
        assert card == CARD == weights.read_card(file)
        assert all(np.array_equal(found[name], tensors[name]) for name in tensors)

    def test_a_tensor_that_is_not_contiguous(self, tmp_path, tensors):
        turned = {k: np.asfortranarray(v) for k, v in tensors.items()}
        weights.write_weights(tmp_path / "x", CARD, turned)
        _, found = weights.read_weights(tmp_path / "x")
        assert all(np.array_equal(found[name], tensors[name]) for name in tensors)

    def test_float16_is_not_written(self, tmp_path):
        with pytest.raises(ValueError, match="a is float16; expected float32"):
            weights.write_weights(tmp_path / "x", CARD, {"a": np.zeros(2, np.float16)})
        assert list(tmp_path.iterdir()) == []


class TestLoad:
    def test_predicts_as_its_parts(self, file, tensors):
        predictor = jaxseg.load(file)
        assert predictor.step == 12
        flat = weights.name_tensors(predictor.params, predictor.model_state)
        assert all(np.array_equal(flat[name], tensors[name]) for name in tensors)
        kernel = tensors["params/conv1/kernel"]
        assert np.array_equal(predictor.params["conv1"]["kernel"], kernel)
        mean = tensors["batch_stats/conv1_norm/mean"]
        assert np.array_equal(predictor.model_state["conv1_norm"]["mean"], mean)
        halves = nested(tensors)
        by_hand = jaxseg.Predictor(build(CONFIG), halves["params"], halves["batch_stats"])
        found = predictor(IMAGE)["superpixels"]
        np.testing.assert_array_equal(found, by_hand(IMAGE)["superpixels"])
        assert found.max() > 0

    @pytest.mark.parametrize("network", ["linear", "pix"])
    def test_networks_with_less_to_learn(self, tmp_path, network):
        config = dataclasses.replace(CONFIG, network=network)
        card = CARD._replace(config=dataclasses.asdict(config))
        weights.write_weights(tmp_path / "x.safetensors", card, tensors_of(config))
        predictor = jaxseg.load(tmp_path / "x.safetensors")
        assert predictor.model_state == {}
        assert set(predictor.params) == ({"conv"} if network == "linear" else set())

    def test_step(self, file):
        for step in ("best", "latest", 12):
            assert jaxseg.load(file, step=step).step == 12
        with pytest.raises(InputError, match="is of step 12, not 13"):
            jaxseg.load(file, step=13)


class TestNames:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch, file):
        """A folder of weights in the place of the bundled ones, and another to be in."""
        folder = tmp_path / "weights"
        folder.mkdir()
        shutil.copy(file, folder / "tiny-a.safetensors")
        shutil.copy(file, folder / "tiny-b.safetensors")
        (folder / "README.md").write_text("no weights")
        monkeypatch.setattr("jaxseg.weights._bundled.FOLDER", folder)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        return folder

    def test_the_files_are_the_table(self, folder):
        assert list(weights.bundled()) == ["tiny-a", "tiny-b"]
        assert weights.find("tiny-a") == folder / "tiny-a.safetensors"
        assert jaxseg.load("tiny-b").step == 12

    def test_unknown(self, folder):
        with pytest.raises(InputError, match=r"^tiny: neither a run's folder.*tiny-a, tiny-b$"):
            jaxseg.load("tiny")

    def test_paths_are_told_apart_from_names(self, folder, tmp_path):
        with pytest.raises(InputError, match="no such run folder; check the path"):
            jaxseg.load(tmp_path / "nope")
        with pytest.raises(InputError, match="no such file of weights; check the path"):
            jaxseg.load("nope.safetensors")

    def test_a_run_goes_first_another_folder_does_not(self, folder, tmp_path):
        here = tmp_path / "here"
        (here / "tiny-a").mkdir()
        (here / "tiny-b").write_text("notes")
        assert weights.find("tiny-a") == folder / "tiny-a.safetensors"
        assert weights.find("tiny-b") == folder / "tiny-b.safetensors"
        assert weights.find("./tiny-b") == Path("tiny-b")
        (here / "tiny-a" / "config.json").write_text("{}")
        assert weights.find("tiny-a") == folder / "tiny-a.safetensors"
        assert weights.find("./tiny-a") is None
        assert weights.find(Path("tiny-a")) is None

    def test_a_folder_that_is_no_run(self, folder, tmp_path):
        (tmp_path / "here" / "empty").mkdir()
        with pytest.raises(InputError, match="empty: not a run folder"):
            jaxseg.load("empty")


class TestRefused:
    def refused(self, path, *says):
        with pytest.raises(InputError) as error:
            jaxseg.load(path)
        message = str(error.value)
        assert "\n" not in message and message.startswith(str(path))
        for text in says:
            assert text in message, (text, message)

    def test_every_tensor_at_once(self, tmp_path, tensors):
        found = dict(tensors)
        del found["params/conv1/bias"], found["batch_stats/conv2_norm/var"]
        found["params/conv9/kernel"] = np.zeros(2, np.float32)
        found["extra"] = np.zeros(2, np.float32)
        found["params/conv2/bias"] = np.zeros(4, np.float32)
        found["params/conv3/bias"] = np.zeros(3, np.float16)
        path = write_raw(tmp_path / "x.safetensors", found)
        self.refused(
            path,
            "missing: params/conv1/bias, batch_stats/conv2_norm/var;",
            "params/conv9/kernel",
            "unexpected: extra",
            "wrong: params/conv2/bias is float32 [4] instead of float32 [3], "
            "params/conv3/bias is float16 [3] instead of float32 [3]",
        )

    def test_another_width(self, tmp_path, tensors):
        path = write_raw(
            tmp_path / "x", tensors, config=json.dumps({**CARD.config, "width": 10**6})
        )
        self.refused(path, "params/conv1/kernel is float32 [3, 3, 5, 3] instead of", "1000000")

    def test_not_finite(self, tmp_path, tensors):
        found = {k: v.copy() for k, v in tensors.items()}
        found["params/conv1/bias"][1] = np.nan
        found["params/conv2/bias"][0] = np.inf
        self.refused(
            write_raw(tmp_path / "x", found), "not finite in params/conv1/bias, params/conv2/bias"
        )

    @pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.1, 0.5, 0.9])
    def test_cut_off(self, file, share):
        data = file.read_bytes()
        file.write_bytes(data[: int(share * len(data))])
        self.refused(file, "damaged, or no safetensors file", "copy it again")

    def test_another_file(self, tmp_path):
        path = tmp_path / "x.safetensors"
        path.write_text("weights, I promise " * 100)
        self.refused(path, "damaged, or no safetensors file")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_closed(self, file):
        file.chmod(0)
        self.refused(file, "cannot be read")

    def test_of_another_program(self, tmp_path, tensors):
        path = write_raw(tmp_path / "x", tensors, metadata={"format": "pt"})
        self.refused(path, "not weights packed by jaxseg", "lacks name, what, constructor")

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"step": "many"}, "header is damaged"),
            ({"config": "[1, 2"}, "header is damaged"),
            ({"config": "3"}, "header is damaged"),
            ({"step": None}, "lacks step"),
            ({"constructor": "instances", "jaxseg": "7.0"}, "of a 'instances', packed by jaxseg 7"),
            ({"config": '{"nonsense": 1}'}, "unknown fields ['nonsense']"),
            ({"config": '{"width": "wide"}'}, "cannot be built"),
            ({"config": '{"width": 0}'}, "width is 0; give 1 or more"),
            ({"config": '{"num_features": 5}'}, "cannot be built"),
            ({"config": '{"num_features": 1e400}'}, "cannot be built"),
            ({"config": '{"network": ["deep"]}'}, "cannot be built"),
        ],
        ids=str,
    )
    def test_header(self, tmp_path, tensors, changes, says):
        self.refused(write_raw(tmp_path / "x", tensors, **changes), says)


def test_check_tensors_serves_any_naming():
    expected = {"layer1.0.weight": np.zeros((2, 3), np.float32)}
    weights.check_tensors(expected, {"layer1.0.weight": np.ones((2, 3), np.float32)})
    with pytest.raises(InputError, match=r"^checkpoint: .*missing: layer1.0.weight; unexpected: b"):
        weights.check_tensors(expected, {"b": np.zeros(1)}, "checkpoint")


@pytest.mark.parametrize("name", weights.bundled())
class TestBundled:
    def test_loads_and_predicts(self, name):
        predictor = jaxseg.load(name)
        photo = read_image(samples_path() / "photos" / "chelsea.png")[:64, :96]
        labels = predictor(photo, num_superpixels=24)["superpixels"]
        assert labels.shape == (64, 96)
        assert 12 <= len(np.unique(labels)) <= 36
        assert predictor.step > 0

    def test_file(self, name):
        path = weights.bundled()[name]
        assert path.stat().st_size < 1_000_000
        card = weights.read_card(path)
        assert card.name == name and card.what and card.data and card.licence
        notice = (path.parents[2] / "NOTICE").read_text()
        assert name.rpartition("-")[2] in notice

    def test_model_card(self, name):
        path = weights.bundled()[name]
        text, card = path.with_suffix(".md").read_text(), weights.read_card(path)
        assert weights.TO_FILL_IN not in text
        parts = dict(re.findall(r"(?ms)^## ([^\n]+)\n\n(.+?)(?=\n## |\Z)", text))
        assert card.data in parts["Data"] and card.licence in parts["Terms"]
        assert "jaxseg train " in parts["Command"]
        assert "asa" in parts["Figures"].lower() and re.search(r"0\.\d{3}", parts["Figures"])
        assert f"step {card.step}" in text
