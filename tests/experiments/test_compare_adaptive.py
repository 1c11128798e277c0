"""Tables, curves and pictures of adaptive downsampling, on folders that the test writes."""

import dataclasses
import json
import shutil

import adaptive_camvid
import adaptive_pictures
import adaptive_runs
import adaptive_synthetic
import compare_adaptive
import numpy as np
import pytest

from jaxseg import data
from jaxseg.cli import main
from jaxseg.metrics import confusion
from jaxseg.recipes.adaptive import Config
from jaxseg.types import InputError


def write_run(folder, config, target, *, miou=0.5, macs=2e8, sampler=0.0, pixels=9.0, step=None):
    """A run's folder as training and evaluation leave it."""
    folder.mkdir(parents=True)
    told = {"experiment": "adaptive_camvid", "config": dataclasses.asdict(config), "jaxseg": "0"}
    (folder / "config.json").write_text(json.dumps(told))
    figures = {"miou": miou, "target_miou": target, "pixels": pixels, "trimap_miou_2": target / 2}
    figures |= {"trimap_pixels_2": 4.0, "recall": 0.5, "recall_1": 0.25, "recall_2": float("nan")}
    figures |= {"objects": 3.0, "objects_1": 3.0, "objects_2": 0.0}
    costs = {"full": {"parameters": 10, "macs": int(macs)}}
    found = {f"full/{k}": v for k, v in figures.items()}
    if config.learns:
        costs["sampler"] = {"parameters": 1, "macs": int(sampler)}
        found["sampler/rms"] = 0.0456
    end = config.steps + config.sampler_steps * config.learns
    record = {"step": end if step is None else step, "figures": found, "costs": costs}
    (folder / "evaluation_test.json").write_text(json.dumps(record))
    return folder


def variant(mode, seed=0, nodes=64, **changes):
    config = adaptive_camvid.VARIANTS[f"unet_{nodes}_{mode}"]
    return dataclasses.replace(config, seed=seed, **changes)


def cells(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines]


def test_the_tables(tmp_path, capsys):
    even, learned = {0: 0.30, 1: 0.32}, {0: 0.34, 1: 0.35, 2: 0.9}
    runs = [
        *(
            write_run(tmp_path / f"l{s}", variant("learned", s), v, macs=2.07e8, sampler=7e6)
            for s, v in learned.items()
        ),
        *(write_run(tmp_path / f"u{s}", variant("uniform", s), v) for s, v in even.items()),
        write_run(tmp_path / "o", variant("oracle"), 0.6, miou=0.4),
        write_run(tmp_path / "s", variant("learned", 1, smoothness=9.0), 0.2),
        write_run(tmp_path / "n", variant("uniform", nodes=32), 0.1, macs=5e7),
    ]
    assert compare_adaptive.main(["--runs", *map(str, runs)]) == 0
    parts = capsys.readouterr().out.strip().split("\n\n")
    rows = {(row[1], row[2]): row for row in cells(parts[0])[2:]}
    assert list(rows) == [
        ("32×32", "uniform"),
        ("64×64", "learned, smoothness 1.0"),
        ("64×64", "learned, smoothness 9.0"),
        ("64×64", "uniform"),
        ("64×64", "oracle"),
    ]
    values, gains = [100 * v for v in learned.values()], [4.0, 3.0]
    assert rows["64×64", "learned, smoothness 1.0"][3:] == [
        "0, 1, 2",
        f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}",
        f"+{np.mean(gains):.2f} ± {np.std(gains, ddof=1):.2f} (2)",
        "50.00 ± 0.00",
        "+0.00 ± 0.00 (2)",
        "0.207",
        "0.007",
        "0.0456",
    ]
    assert rows["64×64", "uniform"][3:] == [
        *("0, 1", "31.00 ± 1.41", "-", "50.00 ± 0.00", "-", "0.2", "0", "-"),
    ]
    assert rows["64×64", "oracle"][4:8] == ["60.00", "+30.00 (1)", "40.00", "-10.00 (1)"]
    assert rows["32×32", "uniform"][4:6] == ["10.00", "-"]
    near, sizes = (cells(parts[i]) for i in (2, 4))
    assert near[0][3:] == ["R = 2"] and near[-1][3:] == ["30.00"]
    # A size that nothing has is left out.
    assert sizes[0][3:] == ["K = 1"] and sizes[2][3:] == ["25.00"]


def test_gains_at_equal_cost():
    """Uniform rises by 10 for each doubling; the other has 1.1 times its cost and 3 more."""
    macs = np.array([1e8, 2e8, 4e8])
    base = (macs, np.array([10.0, 20.0, 30.0]))
    other = (1.1 * macs, base[1] + 3)
    found = compare_adaptive.at_equal_cost(base, other)
    # The last point costs more than any of the base.
    assert [c for c, _ in found] == pytest.approx([1.1e8, 2.2e8])
    assert [g for _, g in found] == pytest.approx([3 - 10 * np.log2(1.1)] * 2)


def test_curves(tmp_path, capsys):
    runs = []
    for nodes, level in ((32, 0.2), (64, 0.3), (128, 0.4)):
        for seed, off in ((0, 0.01), (1, -0.01)):
            for mode, gain in (("uniform", 0.0), ("area", 0.05)):
                config = variant(mode, seed, nodes)
                cost = 1e8 * (nodes / 32) ** 2
                where = tmp_path / f"{mode}{nodes}{seed}"
                runs.append(write_run(where, config, level + off + gain, macs=cost))
    out = tmp_path / "curves.png"
    assert compare_adaptive.main(["--runs", *map(str, runs), "--curves", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        "unet, area, over uniform at equal cost: +5.00 at 0.1 G, +5.00 at 0.4 G, +5.00 at 1.6 G"
        "; seeds 0, 1"
    )
    assert data.read_image(out).std() > 0
    alone = [str(run) for run in runs if "area" in run.name]
    assert compare_adaptive.main(["--runs", *alone, "--curves", str(out)]) == 0
    assert "no run of mode uniform" in capsys.readouterr().out


def test_curves_over_seeds_that_both_have(tmp_path):
    """A good third seed of one mode alone, or at some numbers of nodes alone, gains nothing."""
    runs = []
    for nodes, level in ((32, 0.2), (64, 0.3)):
        for mode, gain, seeds in (("uniform", 0.0, (0, 1)), ("area", 0.05, (0, 1, 2))):
            for seed in seeds if nodes == 32 or mode == "area" else (0,):
                config, cost = variant(mode, seed, nodes), 1e8 * (nodes / 32) ** 2
                where = tmp_path / f"{mode}{nodes}{seed}"
                runs.append(write_run(where, config, level + gain + 0.2 * seed, macs=cost))
    lone = write_run(tmp_path / "o", variant("oracle", 7), 0.9)
    read = adaptive_runs.read_runs([*runs, lone], "test")
    assert compare_adaptive.gains_of(read).splitlines() == [
        "unet, area, over uniform at equal cost: +5.00 at 0.1 G, +5.00 at 0.4 G; seeds 0",
        "unet, oracle: no seed in common with uniform",
    ]
    [rows] = compare_adaptive.curves_of(read[:-1]).values()
    assert rows["area"][1] == pytest.approx([25, 35])
    assert rows["uniform"][1] == pytest.approx([20, 30])
    # Without a common seed each has its own.
    [rows] = compare_adaptive.curves_of(read).values()
    assert rows["oracle"][1] == pytest.approx([90])
    assert rows["area"][1] == pytest.approx([45, 55])


def test_what_follows_from_the_nodes_splits_nothing(tmp_path):
    """As in adaptive_synthia.py; two numbers of steps at the same nodes do."""
    by_nodes = {32: (16, 900), 64: (8, 600), 128: (4, 300)}
    runs = []
    for nodes, (size, steps) in by_nodes.items():
        for mode in ("learned", "uniform"):
            config = dataclasses.replace(variant(mode), nodes=(nodes, nodes))
            fields = {"batch_size": size, "steps": steps, "sampler_size": (nodes, nodes)}
            config = dataclasses.replace(config, **fields)
            runs.append(write_run(tmp_path / f"{mode}{nodes}", config, 0.4, macs=1e5 * nodes))
    found = compare_adaptive.curves_of(adaptive_runs.read_runs(runs, "test"))
    assert {title: list(rows) for title, rows in found.items()} == {"unet": ["learned", "uniform"]}
    assert [len(macs) for macs, _ in found["unet"].values()] == [3, 3]
    more = write_run(tmp_path / "more", variant("uniform", steps=700), 0.4)
    titles = set(adaptive_runs.titles_of(adaptive_runs.read_runs([*runs, more], "test")).values())
    assert len(titles) == 4
    assert "unet, steps 700" in titles


def test_fields_of_an_experiment_are_compared(tmp_path):
    runs = []
    for seed in (0, 1):
        run = write_run(tmp_path / f"{seed}", variant("uniform"), 0.4)
        told = json.loads((run / "config.json").read_text())
        told["config"]["scene_seed"] = seed
        (run / "config.json").write_text(json.dumps(told))
        runs.append(run)
    found = adaptive_runs.titles_of(adaptive_runs.read_runs(runs, "test"))
    assert list(found.values()) == ["unet, scene_seed 0", "unet, scene_seed 1"]
    for field in dataclasses.fields(Config):
        run = adaptive_runs.read_run(runs[0], "test")
        aside = field.name in adaptive_runs._ASIDE
        told = field.name in run.common or any(
            field.name in f for f in adaptive_runs.FIELDS.values()
        )
        assert told != aside, field.name


def test_names_for_pictures(tmp_path):
    """Of runs that were not evaluated."""
    runs = [
        write_run(tmp_path / "a", dataclasses.replace(variant("uniform"), nodes=(48, 64)), 0.4),
        write_run(tmp_path / "b", variant("learned", 1), 0.4),
        write_run(tmp_path / "c", variant("learned", 1, smoothness=4.0), 0.4),
    ]
    for run in runs:
        (run / "evaluation_test.json").unlink()
    assert adaptive_runs.names_of(runs) == [
        "unet, 48×64, uniform, seed 0",
        "unet, 64×64, learned, smoothness 1.0, seed 1",
        "unet, 64×64, learned, smoothness 4.0, seed 1",
    ]
    assert adaptive_runs.names_of(runs[:1]) == ["unet, 48×64, uniform"]


def test_what_cannot_be_compared(tmp_path, capsys):
    good = write_run(tmp_path / "good", variant("uniform"), 0.4)
    # What is of the sampler alone is nothing to it.
    twin = write_run(tmp_path / "twin", variant("uniform", smoothness=4.0), 0.5)
    short = write_run(tmp_path / "short", variant("learned"), 0.5, step=600)
    end = variant("learned").steps + variant("learned").sampler_steps
    other = write_run(tmp_path / "other", variant("uniform", 2), 0.5, pixels=50.0)
    bare = write_run(tmp_path / "bare", variant("uniform", 3), 0.5)
    (bare / "evaluation_test.json").write_text('{"figures": {}, "step": 600}')
    alien = write_run(tmp_path / "alien", variant("uniform", 5), 0.5)
    (alien / "config.json").write_text('{"config": {"network": "unet"}}')
    for arguments, words in (
        ([good, twin], f"{twin}: the same training as {good}"),
        ([short], f"{short}: is at step 600 of {end}"),
        ([good, other], f"{other}: measured on other data than {good}"),
        ([bare], "lacks 'costs'"),
        ([alien], f"{alien}: is no run with adaptive downsampling"),
        ([tmp_path / "none"], "config.json: missing; train"),
        ([good, "--pictures", tmp_path / "p.png"], "--pictures wants --data"),
    ):
        assert compare_adaptive.main(["--runs", *map(str, arguments)]) == 2, words
        err = capsys.readouterr().err
        assert err.startswith("compare_adaptive: ") and err.count("\n") == 1
        assert words in err, err


SMALL = Config(
    num_classes=2,
    target_classes=(1,),
    nodes=(8, 8),
    width=2,
    depth=1,
    crop=(24, 32),
    class_weights="none",
    sampler_size=(8, 8),
    sampler_grid=(4, 4),
    sampler_features=2,
    sampler_steps=0,
    batch_size=8,
    steps=0,
)
EXPERIMENT = """
from jaxseg.recipes.adaptive import Config, build

VARIANTS = {"small": Config(**%r)}
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Images of 24×32 pixels with a square each."""
    folder = tmp_path_factory.mktemp("scenes")
    info = {"kind": "classes", "layout": "folders", "classes": ["ground", "square"]}
    (folder / "dataset.json").write_text(json.dumps(info))
    for split in ("train", "test"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(3):
            label = np.zeros((24, 32), np.int32)
            label[2 + i : 9 + i, 3 + i : 10 + i] = 1
            image = np.repeat(60 + 90 * label[..., None], 3, axis=-1).astype(np.uint8)
            data.write_image(folder / "images" / split / f"{i}.png", image)
            data.write_labels(folder / "labels" / split / f"{i}.png", label)
    return folder


def test_pictures_of_a_run(scenes, tmp_path, capsys):
    """Of an untrained one: its nodes are even."""
    file = tmp_path / "small.py"
    file.write_text(EXPERIMENT % dataclasses.asdict(SMALL))
    run = tmp_path / "run"
    assert main(["train", *map(str, [file, "--data", scenes, "--workdir", run])]) == 0
    sheets = [tmp_path / "runs.png", tmp_path / "smoothness.png"]
    arguments = ["--runs", run, "--data", scenes, "--images", 2, "--pictures", sheets[0]]
    arguments += ["--smoothness", sheets[1], "--values", 0.1, 100.0]
    assert compare_adaptive.main([str(a) for a in arguments]) == 0
    assert capsys.readouterr().out.endswith(f"written to {sheets[0]}\nwritten to {sheets[1]}\n")
    for path, columns in zip(sheets, (4, 5), strict=True):
        sheet = data.read_image(path)
        assert sheet.shape[1] == columns * (300 + 300 // 24) + 300 // 24
        red, green, blue = np.moveaxis(sheet.astype(int), -1, 0)
        assert ((red > 200) & (green > 170) & (blue < 90)).sum() > 500

    # The nodes that labels ask for need no weights.
    shutil.rmtree(run / "checkpoints")
    sheets[1].unlink()
    arguments = ["--runs", run, "--data", scenes, "--images", 1, "--smoothness", sheets[1]]
    arguments += ["--values", 0.1, 100.0]
    assert compare_adaptive.main([str(a) for a in arguments]) == 0
    assert sheets[1].exists()
    for values in (("-1",), ("0.1", "nan")):
        capsys.readouterr()
        assert compare_adaptive.main([*map(str, arguments[:-2]), *values]) == 2
        err = capsys.readouterr().err
        assert "--values is" in err and err.count("\n") == 1


def test_nodes_are_drawn_where_they_are():
    image = np.zeros((9, 13, 3), np.uint8)
    coords = np.stack(np.meshgrid([0, 0.25, 1], [0, 0.5, 1], indexing="ij"), axis=-1)
    picture = adaptive_pictures.draw_nodes(image, coords, scale=3)
    assert picture.shape == (27, 39, 3)
    ink = (picture == adaptive_pictures._INK).all(axis=-1)
    # Pixels 0, 2 and 8 of the rows, and 0, 6, 12 of the columns, three times as large.
    assert np.flatnonzero(ink[:, 10]).tolist() == [1, 7, 25]
    assert np.flatnonzero(ink[15]).tolist() == [1, 19, 37]
    thinned = adaptive_pictures.draw_nodes(image, coords, scale=3, lines=2)
    assert (thinned == adaptive_pictures._INK).all(axis=-1).sum() < ink.sum()


def test_labels_that_come_back(scenes):
    """Squares of 7 pixels, read at 8 nodes a side: near its border more is kept of one."""
    config = dataclasses.replace(SMALL, sampler_grid=(8, 8))
    source = data.open_folder(scenes, "test")
    metric = confusion(2, target_classes=(1,))
    found: dict[float, list[float]] = {1e6: [], 0.1: []}
    for label in (source[i]["label"] for i in range(3)):
        for smoothness, values in found.items():
            coords, classes = adaptive_pictures.round_trip(config, label, np.float32(smoothness))
            assert coords.shape == (8, 8, 2) and classes.shape == label.shape
            batch = {"label": label[None], "size": np.array([[24, 32]]), "weight": np.ones(1)}
            sums = metric.measure({"classes": np.asarray(classes)[None]}, batch)
            values.append(metric.compute(sums)["target_miou"])
    assert np.mean(found[0.1]) > np.mean(found[1e6]) + 0.05


def test_titles_say_what_differs(tmp_path):
    runs = [
        write_run(tmp_path / "a", variant("uniform"), 0.4),
        write_run(tmp_path / "b", variant("uniform", width=8), 0.4),
        write_run(tmp_path / "c", variant("area", network="espnetv2", width=0, depth=0), 0.4),
    ]
    found = adaptive_runs.titles_of(adaptive_runs.read_runs(runs, "test"))
    assert list(found.values()) == ["unet, width 16", "unet, width 8", "espnetv2"]


def test_scenes_have_a_size_of_their_own():
    small = adaptive_synthetic.VARIANTS["unet_32_uniform"]
    for changes in ({"size": (64, 64)}, {"crop": (64, 64)}, {"size": (64, 64), "crop": (64, 64)}):
        with pytest.raises(InputError, match="leave both out, and give --scene-size"):
            adaptive_synthetic.build(dataclasses.replace(small, **changes))
    found = adaptive_synthetic.build(dataclasses.replace(small, scene_size=64))
    assert found.example["image"].shape == (1, 64, 64, 3)
