"""Potsdam's release, made here in small."""

import concurrent.futures
import os
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from jaxseg.data import Source, eval_batches, potsdam_tiles, train_batches
from jaxseg.data.potsdam import (
    GROUPS,
    LABELLED_TILES,
    TEST_TILES,
    UNLABELLED_TILES,
    PotsdamSource,
)
from jaxseg.data.potsdam_tiles import CLASSES, class_indices, half_scale, read_bands
from jaxseg.types import InputError

TILE, PATCH = 40, 8
SIZES = {"tile_size": TILE, "patch_size": PATCH}
ROWS = 2  # Of patches; what is left of a tile makes no patch.
COLORS = [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)]
# Road, building, vegetation, tree, car, clutter.
THREE = [0, 1, 2, 2, 0, 1]


def image_path(folder, tile):
    return folder / "4_Ortho_RGBIR" / f"top_potsdam_{tile}_RGBIR.tif"


def label_path(folder, tile):
    return folder / "5_Labels_for_participants" / f"top_potsdam_{tile}_label.tif"


def write_tile(folder, tile, bands, classes=None):
    image_path(folder, tile).parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(image_path(folder, tile), bands, photometric="rgb", extrasamples=[0])
    if classes is not None:
        label_path(folder, tile).parent.mkdir(exist_ok=True)
        colors = np.array(COLORS, np.uint8)[classes]
        # Pillow reads all compressions of these.
        Image.fromarray(colors).save(label_path(folder, tile), compression="tiff_lzw")


def write_release(folder, size=TILE):
    rng, found = np.random.default_rng(0), {}
    for tile in (*LABELLED_TILES, *UNLABELLED_TILES):
        bands = rng.integers(0, 256, (size, size, 4)).astype(np.uint8)
        classes = rng.integers(0, 6, (size, size)) if tile in LABELLED_TILES else None
        write_tile(folder, tile, bands, classes)
        found[tile] = bands, classes
    return found


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("potsdam")
    found = write_release(folder)
    # Labels that came later, and what else lies there.
    (folder / "5_Labels_all").mkdir()
    Image.fromarray(np.zeros((TILE, TILE, 3), np.uint8)).save(
        folder / "5_Labels_all" / "top_potsdam_2_13_label.tif"
    )
    (folder / "4_Ortho_RGBIR" / "top_potsdam_2_10_RGBIR.tfw").touch()
    return folder, found


def refused(says, function, *arguments, **options):
    with pytest.raises(InputError, match=says) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value) and ";" in str(error.value)


def expected_patch(bands, row, col):
    """Means of four pixels, one by one."""
    patch = np.zeros((PATCH, PATCH, 4), np.uint8)
    for y in range(PATCH):
        for x in range(PATCH):
            r, c = 2 * (row * PATCH + y), 2 * (col * PATCH + x)
            four = bands[r : r + 2, c : c + 2].astype(float)
            patch[y, x] = np.floor(four.mean(axis=(0, 1)) + 0.5)
    return patch


def test_the_release():
    assert (len(LABELLED_TILES), len(UNLABELLED_TILES)) == (24, 14)
    assert len({*LABELLED_TILES, *UNLABELLED_TILES}) == 38
    assert set(TEST_TILES) < set(LABELLED_TILES) and len(TEST_TILES) * 15 * 15 == 900
    assert list(CLASSES.values()) == COLORS
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(CLASSES)


@pytest.mark.parametrize("classes", [3, 6])
def test_examples_are_what_was_written(release, tmp_path, classes):
    folder, found = release
    every = "train+test+unlabelled"
    source = PotsdamSource(folder, every, classes=classes, cache_dir=tmp_path, **SIZES)
    assert isinstance(source, Source) and len(source) == 38 * ROWS * ROWS
    assert source.info.num_classes == classes == len(source.info.classes)
    assert len(source.info.colors) == classes
    tiles = [id.removeprefix("top_potsdam_")[:-6] for id in source.ids]
    assert set(tiles) == set(found)
    for i in (0, 1, 2, 3, 79, 80, 95, 96, 151):
        tile, row, col = tiles[i], *map(int, source.ids[i].split("_")[-2:])
        assert (row, col) == divmod(i % 4, ROWS)
        bands, fine = found[tile]
        example = source[i]
        np.testing.assert_array_equal(example["image"], expected_patch(bands, row, col))
        assert example["image"].dtype == np.uint8 and example["label"].dtype == np.int32
        assert example["id"] == source.ids[i] and source.extent(i) == (PATCH, PATCH, 0)
        for y in range(PATCH):
            for x in range(PATCH):
                expected = -1
                if fine is not None:
                    c = fine[2 * (row * PATCH + y), 2 * (col * PATCH + x)]
                    expected = c if classes == 6 else THREE[c]
                assert example["label"][y, x] == expected
    np.testing.assert_array_equal(source[-1]["image"], source[151]["image"])
    with pytest.raises(IndexError):
        source[152]
    # Only what was asked for was kept.
    kept = {path.name for path in tmp_path.iterdir()}
    used = {tiles[i] for i in (0, 79, 80, 95, 96, 151)}
    assert {name for name in kept if "RGBIR" in name} == {
        f"top_potsdam_{tile}_RGBIR.npy" for tile in used
    }
    (batch, *_) = eval_batches(source, batch_size=2)
    assert batch["image"].shape == (2, PATCH, PATCH, 4)
    assert next(iter(train_batches(source, batch_size=2, seed=0)))["label"].shape[0] == 2


def test_splits(release, tmp_path):
    def tiles(split, **options):
        source = PotsdamSource(release[0], split, cache_dir=tmp_path, **SIZES, **options)
        return {id.removeprefix("top_potsdam_")[:-6] for id in source.ids}

    assert tiles("test") == set(TEST_TILES)
    assert tiles("train") == set(LABELLED_TILES) - set(TEST_TILES)
    assert tiles("unlabelled") == set(UNLABELLED_TILES)
    assert tiles(None) == tiles("test+train") == set(LABELLED_TILES)
    assert tiles("test", test_tiles=["6_7"]) == {"6_7"}
    refused(r"no split 'val'; there are train, test, unlabelled", tiles, "val")


@pytest.mark.parametrize("extra", [None, 0, 1, 2])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_all_four_bands_are_read(tmp_path, extra, planar, compression):
    """Pillow drops the fourth of some, divides by the fourth of others, and refuses the rest."""
    bands = np.random.default_rng(2).integers(0, 256, (10, 12, 4)).astype(np.uint8)
    stored = bands if planar == "contig" else np.moveaxis(bands, -1, 0)
    options = {} if extra is None else {"extrasamples": [extra]}
    path = tmp_path / "tile.tif"
    tifffile.imwrite(
        path, stored, photometric="rgb", planarconfig=planar, compression=compression, **options
    )
    np.testing.assert_array_equal(read_bands(path), bands)


def test_half_scale_is_that_of_opencv(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(potsdam_tiles, "_ROWS", 7)
    bands = np.random.default_rng(3).integers(0, 256, (60, 42, 4)).astype(np.uint8)
    expected = cv2.resize(bands, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(half_scale(bands), expected)


def test_tiles_are_read_once(release, tmp_path, monkeypatch):
    """From eight threads, from a second source, and until the TIFF is newer."""
    read = []
    monkeypatch.setattr(potsdam_tiles, "read_bands", lambda p: read.append(p) or read_bands(p))

    def source():
        return PotsdamSource(release[0], "test", cache_dir=tmp_path / "a/b", **SIZES)

    one = source()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        examples = list(pool.map(one.__getitem__, [0, 1, 2, 3] * 4))
    assert len(read) == 1
    np.testing.assert_array_equal(source()[0]["image"], examples[0]["image"])
    assert len(read) == 1
    kept = tmp_path / "a/b/top_potsdam_2_11_RGBIR.npy"
    assert isinstance(np.load(kept, mmap_mode="r"), np.memmap)
    os.utime(kept, (0, 0))
    np.testing.assert_array_equal(source()[0]["image"], examples[0]["image"])
    assert len(read) == 2
    kept.write_bytes(kept.read_bytes()[:200])
    np.testing.assert_array_equal(source()[0]["image"], examples[0]["image"])
    assert len(read) == 3


def test_colours_near_those_of_the_classes():
    colors = np.array([[(255, 255, 255), (223, 32, 0), (252, 255, 3)]], np.uint8)
    np.testing.assert_array_equal(class_indices(colors, "a"), [[0, 5, 4]])
    for other in ((0, 0, 0), (255, 0, 255), (222, 0, 0), (0, 255, 33), (128, 128, 128)):
        colors[0, 1] = other
        says = (
            rf"a.tif: 1 pixels of no class' colour, the first of \({', '.join(map(str, other))}\)"
        )
        refused(says, class_indices, colors, "a.tif")


def test_incomplete_releases(release, tmp_path):
    says = r"no top_potsdam_2_10_RGBIR.tif in it or its folders; unpack 4_Ortho_RGBIR.zip"
    refused(says, PotsdamSource, tmp_path, **SIZES)
    write_tile(tmp_path, "7_8", *release[1]["7_8"])
    options = {**SIZES, "test_tiles": ["7_8"], "cache_dir": tmp_path / "kept"}
    assert len(PotsdamSource(tmp_path, "test", **options)) == 4
    # Tiles and labels in one folder.
    for path in (image_path(tmp_path, "7_8"), label_path(tmp_path, "7_8")):
        path.rename(tmp_path / path.name)
    assert len(PotsdamSource(tmp_path, "test", **options)) == 4
    (tmp_path / "top_potsdam_7_8_label.tif").unlink()
    says = r"no top_potsdam_7_8_label.tif in it or its folders; unpack 5_Labels_for_participants"
    refused(says, PotsdamSource, tmp_path, "test", **options)


def test_files_that_cannot_be_used(release, tmp_path):
    bands, classes = release[1]["7_8"]
    image, label = image_path(tmp_path, "7_8"), label_path(tmp_path, "7_8")

    def first():
        write = {"test_tiles": ["7_8"], "cache_dir": tmp_path / "kept", **SIZES}
        return PotsdamSource(tmp_path, "test", **write)[0]

    write_tile(tmp_path, "7_8", bands[:, :-2], classes)
    refused(r"7_8_RGBIR.tif: 40x38, expected 40x40 \(height x width\); unpack", first)
    write_tile(tmp_path, "7_8", bands[:-1, :-1], classes)
    refused(r"7_8_RGBIR.tif: 39x39, expected 40x40", first)
    tifffile.imwrite(image, bands[..., :3], photometric="rgb")
    refused(r"7_8_RGBIR.tif: 40x40x3 of uint8, not 4 bands of 8 bits; unpack", first)
    tifffile.imwrite(image, bands.astype(np.uint16), photometric="rgb")
    refused(r"7_8_RGBIR.tif: 40x40x4 of uint16, not 4 bands", first)
    image.write_bytes(b"no picture")
    refused(r"7_8_RGBIR.tif: not readable .*; copy it again", first)
    write_tile(tmp_path, "7_8", bands, classes)
    image.write_bytes(image.read_bytes()[:-500])
    refused(r"7_8_RGBIR.tif: not readable", first)
    write_tile(tmp_path, "7_8", bands, classes[:-2])
    refused(r"7_8_label.tif: 38x40, expected 40x40", first)
    label.write_bytes(b"no picture")
    refused(r"7_8_label.tif: not an image", first)
    black = np.zeros((TILE, TILE, 3), np.uint8)
    Image.fromarray(black).save(label)
    refused(r"7_8_label.tif: 400 pixels of no class' colour, the first of \(0, 0, 0\); take", first)
    assert not list((tmp_path / "kept").glob("*label.npy"))


def test_damaged_headers(tmp_path):
    """Each byte of the header, and of the tags but the sizes, is changed once."""
    path = tmp_path / "tile.tif"
    bands = np.random.default_rng(4).integers(0, 256, (4, 6, 4)).astype(np.uint8)
    tifffile.imwrite(path, bands, photometric="rgb", compression="zlib", metadata=None)
    good = path.read_bytes()
    start = struct.unpack("<I", good[4:8])[0]
    count = struct.unpack("<H", good[start : start + 2])[0]
    tags = [start + 2 + 12 * i for i in range(count)]
    sizes = (256, 257, 278)
    tags = [tag for tag in tags if struct.unpack("<H", good[tag : tag + 2])[0] not in sizes]
    refusals = 0
    for place in (*range(8), *(tag + i for tag in tags for i in range(12))):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x5A]) + good[place + 1 :])
        try:
            assert read_bands(path).shape[2] == 4
        except InputError as error:
            assert "\n" not in str(error) and "tile.tif" in str(error)
            refusals += 1
    assert refusals > 8


def test_a_folder_that_cannot_be_written(release, tmp_path):
    (tmp_path / "file").touch()
    source = PotsdamSource(release[0], "test", cache_dir=tmp_path / "file/kept", **SIZES)
    refused(r"file/kept: not made .*; name another cache_dir", lambda: source[0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": 4}, "classes is 4; expected 3 or 6"),
        ({"test_tiles": ["2_13"]}, "test_tiles has '2_13'; expected"),
        ({"tile_size": 39, "patch_size": 8}, "tile_size 39; expected an even"),
        ({"tile_size": 40, "patch_size": 21}, "patch_size is 21"),
    ],
)
def test_options_that_do_not_fit(release, options, says):
    with pytest.raises(ValueError, match=says):
        PotsdamSource(release[0], **options)
