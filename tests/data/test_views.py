"""Views against the released code's steps one by one, and warped back by SciPy."""

import functools

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jaxseg.data import (
    ColorJitter,
    Compose,
    MemorySource,
    RandomCrop,
    ViewsSource,
    centre,
    digit_first,
    digit_second,
    eval_batches,
    image_views,
    photo_first,
    photo_second,
    pixel_views,
    train_batches,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def waves(height, width, channels=3):
    """Smooth, so that interpolating it twice changes it little."""
    y, x = np.mgrid[:height, :width]
    shown = [np.sin(y / 9 + k) + np.cos(x / 11 - 2 * k) for k in range(channels)]
    return np.rint(127.5 + 60 * np.stack(shown, -1)).astype(np.uint8)


def resized(image, size):
    """Pillow's, of one or three channels."""
    shown = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(shown.resize(size[::-1], Image.Resampling.BILINEAR)).reshape(*size, -1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_window_is_cropped_and_resized(channels):
    """Every window that is drawn is one of the image's; each is drawn."""
    image, view = noise(9, 10, channels), RandomCrop(12, (7,))
    windows = {
        (y, x): resized(image[y : y + 7, x : x + 7], (12, 12)) for y in range(3) for x in range(4)
    }
    rng, seen = np.random.default_rng(0), set()
    for _ in range(150):
        found = view(image, rng)
        (place,) = (k for k, window in windows.items() if np.array_equal(window, found))
        seen.add(place)
    assert seen == set(windows) and found.dtype == np.uint8


def test_sides_flips_and_the_middle():
    image, rng = noise(28, 28, 1), np.random.default_rng(0)
    view = RandomCrop((10, 14), (8, 20), centre_probability=1.0, flip_probability=0.5)
    windows = []
    for side in (8, 20):
        first = (28 - side) // 2
        kept = image[first : first + side, first : first + side]
        windows += [resized(kept, (10, 14)), resized(kept, (10, 14))[:, ::-1]]
    counts = np.zeros(4)
    for _ in range(400):
        found = view(image, rng)
        counts += [np.array_equal(found, window) for window in windows]
    assert counts.sum() == 400 and counts.min() > 70
    np.testing.assert_array_equal(centre(24, 20)(image, rng), resized(image[4:24, 4:24], (24, 24)))
    # Half of the first views of a digit are the middle, and by chance one of the rest in 81.
    middle = centre(24, 20)(image, rng)
    share = np.mean([np.array_equal(digit_first()(image, rng), middle) for _ in range(400)])
    assert 0.42 < share < 0.6


def turned_window(image, degrees, top, left, side, size):
    """SciPy's rotation of the image about its middle, then the window: in coordinates."""
    height, width = image.shape[:2]
    y, x = np.meshgrid(
        top + (np.arange(size) + 0.5) * side / size,
        left + (np.arange(size) + 0.5) * side / size,
        indexing="ij",
    )
    y, x = y - height / 2, x - width / 2
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rows, columns = s * x + c * y + height / 2 - 0.5, c * x - s * y + width / 2 - 0.5
    planes = [
        ndimage.map_coordinates(plane, [rows, columns], order=1, mode="nearest")
        for plane in np.moveaxis(image.astype(np.float64), -1, 0)
    ]
    outside = (rows < -0.5) | (rows >= height - 0.5) | (columns < -0.5) | (columns >= width - 0.5)
    return np.where(outside[..., None], 0, np.stack(planes, -1)), outside


@pytest.mark.parametrize(("channels", "sides", "size"), [(1, (24,), 24), (4, (20,), 32)])
def test_turned_windows(channels, sides, size):
    """Crop, rotation and resize by one interpolation, at whichever angle was drawn."""
    image = noise(30, 34, channels)
    view = RandomCrop(size, sides, rotation=25.0)
    dark = 0
    for seed in range(10):
        draws = np.random.default_rng(seed).random(7)
        top, left = int(draws[1] * (31 - sides[0])), int(draws[2] * (35 - sides[0]))
        degrees = 25 * (2 * draws[5] - 1)
        expected, outside = turned_window(image, degrees, top, left, sides[0], size)
        found = view(image, np.random.default_rng(seed))
        assert found.shape == (size, size, channels)
        # Pillow rounds down.
        difference = expected - found
        assert difference.min() > -0.01 and difference.max() < 1.01
        dark += outside.sum()
    assert dark > 0


def test_what_shrinks_is_averaged():
    """A fine pattern becomes grey, turned or not."""
    image = np.indices((64, 64)).sum(0)[..., None].astype(np.uint8) % 2 * 255
    for rotation in (0.0, 20.0):
        view = RandomCrop(16, (44,), centre_probability=1.0, rotation=rotation)
        found = view(image, np.random.default_rng(0)).astype(int)
        assert np.abs(found - 127).max() < 20


def test_shares_of_digit_second():
    """A bar stays upright unless it is turned, as half of the views are."""
    image = np.zeros((28, 28, 1), np.uint8)
    image[:, 13:15] = 255
    rng, upright = np.random.default_rng(0), 0
    view = digit_second(sides=(28,), jitter=(0.0, 0.0, 0.0, 0.0))
    for _ in range(300):
        columns = view(image, rng)[..., 0].astype(int)
        upright += bool((columns == columns[0]).all())
    assert 0.4 < upright / 300 < 0.6
    view = Compose((RandomCrop(28, (28,)), ColorJitter(brightness=0.4)))
    assert len({int(view(image, rng).max()) for _ in range(20)}) > 5
    for made in (photo_first(32, 20), photo_second(32, 20), digit_second()):
        assert made(noise(28, 30, 3), rng).shape in ((32, 32, 3), (24, 24, 3))


def test_image_views():
    example = {"image": noise(28, 28, 1), "label": np.int32(7), "id": "a"}
    shown = []

    def second(image, rng):
        shown.append(image)
        return np.full((24, 24, 1), rng.integers(256), np.uint8)

    found = image_views(
        example, np.random.default_rng(0), first=centre(24, 20), second=second, repeats=3
    )
    assert found["image"].shape == (24, 24, 1) and found["views"].shape == (3, 24, 24, 1)
    assert all(image is example["image"] for image in shown) and len(shown) == 3
    assert len(set(found["views"][:, 0, 0, 0].tolist())) == 3
    assert found["label"] == 7 and found["size"].tolist() == [24, 24]
    make = functools.partial(image_views, first=digit_first(), second=digit_second())
    with pytest.raises(ValueError, match="label has 2 axes; expected one class"):
        make({**example, "label": np.zeros((28, 28))}, np.random.default_rng(0), repeats=1)
    with pytest.raises(ValueError, match="repeats is 0"):
        make(example, np.random.default_rng(0), repeats=0)


def warped_back(view, affine):
    """As PyTorch's `affine_grid` and `grid_sample` with aligned corners; and what lies inside."""
    height, width, channels = view.shape
    rows, cols = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    x, y = np.einsum(
        "ij,jhw->ihw", affine.astype(float), np.stack([cols, rows, np.ones_like(rows)])
    )
    places = (y + 1) / 2 * (height - 1), (x + 1) / 2 * (width - 1)
    back = [
        ndimage.map_coordinates(view[..., c].astype(float), places, order=1, mode="grid-constant")
        for c in range(channels)
    ]
    return np.stack(back, axis=-1), (np.abs(x) <= 1) & (np.abs(y) <= 1)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("crop_size", [32, (32, 50)])
def test_flips_come_back_exactly(crop_size, channels):
    example = {"image": noise(40, 60, channels), "id": "a"}
    found = pixel_views(
        example,
        np.random.default_rng(3),
        crop_size=crop_size,
        repeats=12,
        jitter=(0.0, 0.0, 0.0, 0.0),
    )
    flipped = 0
    for view, affine in zip(found["views"], found["affine"], strict=True):
        back, inside = warped_back(view, affine)
        np.testing.assert_allclose(back, found["image"], atol=1e-3)
        assert inside.all() and affine.dtype == np.float32
        flipped += affine[0, 0] < 0
    assert 2 < flipped < 10


MOVES = {
    "rotation": {"rotation": 30.0},
    "scale": {"scale_range": (0.8, 1.4)},
    "translation": {"translation": 0.2},
    "shear": {"shear": 20.0},
    "all": {"rotation": 18.0, "scale_range": (0.9, 1.1), "translation": 0.1, "shear": 10.0},
}


@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES)
def test_moved_views_come_back(moves):
    """The pixels whose place lies in the view have their values again, but for interpolation."""
    found = pixel_views(
        {"image": waves(60, 80), "id": "a"},
        np.random.default_rng(0),
        crop_size=(48, 64),
        repeats=6,
        jitter=(0.0, 0.0, 0.0, 0.0),
        **moves,
    )
    shares = []
    for view, affine in zip(found["views"], found["affine"], strict=True):
        back, inside = warped_back(view, affine)
        shares.append(inside.mean())
        # The view mixes the outermost pixels of the crop with black.
        inside[[0, 1, -2, -1]] = inside[:, [0, 1, -2, -1]] = False
        difference = np.abs(back - found["image"])[inside]
        assert difference.mean() < 1 and difference.max() < 3
        assert np.abs(affine - np.eye(2, 3)).max() > 1e-3
    assert 0.4 < np.mean(shares) <= 1 and len({a.tobytes() for a in found["affine"]}) == 6


def test_labels_follow_the_crop_and_small_images_are_padded():
    image = np.stack(np.indices((20, 60)), -1).astype(np.uint8)
    image = np.concatenate([image, image[..., :1]], -1)
    example = {"image": image, "label": image[..., 1].astype(np.int32), "id": "a"}
    found = pixel_views(
        example, np.random.default_rng(0), crop_size=32, jitter=(0.1, 0.1, 0.1, 0.0), repeats=2
    )
    assert found["size"].tolist() == [20, 32] and found["views"].shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(found["label"][:20], found["image"][:20, :, 1])
    assert (found["label"][20:] == -1).all()
    np.testing.assert_array_equal(found["image"][20:32], found["image"][19:7:-1])
    smaller = pixel_views(example, np.random.default_rng(0), crop_size=10, scale=0.5)
    assert smaller["label"].max() - smaller["label"].min() in (18, 19)


def test_batches_of_views():
    source = MemorySource(
        [{"image": noise(28, 28, 1, seed=k), "label": np.int32(k)} for k in range(5)]
    )
    make = functools.partial(image_views, first=digit_first(), second=digit_second(), repeats=2)
    batch = next(iter(train_batches(source, batch_size=3, seed=0, transform=make, num_threads=0)))
    assert batch["views"].shape == (3, 2, 24, 24, 1) and batch["views"].dtype == np.uint8
    assert batch["label"].shape == (3,) and batch["label"].dtype == np.int32
    maps = [
        {"image": noise(20, 30, 3, seed=k), "label": np.zeros((20, 30), np.int32)} for k in (1, 2)
    ]
    make = functools.partial(pixel_views, crop_size=16, repeats=2)
    (batch,) = eval_batches(ViewsSource(MemorySource(maps), make), batch_size=3)
    assert batch["affine"].shape == (3, 2, 2, 3) and batch["affine"].dtype == np.float32
    assert batch["label"].shape == (3, 16, 16) and batch["weight"].tolist() == [1, 1, 0]


def test_views_of_a_source_are_always_the_same():
    images = [noise(28 + 2 * (k // 2), 28, 1, seed=k) for k in range(4)]
    source = MemorySource([{"image": image, "label": np.int32(1)} for image in images])
    make = functools.partial(image_views, first=centre(24, 20), second=digit_second(), repeats=3)
    views = ViewsSource(source, make, seed=5)
    assert len(views) == 4 and views.ids == source.ids
    assert [views.extent(i) for i in range(4)] == [(24, 24, 0)] * 4
    for i in (3, 0, -1):
        again = ViewsSource(source, make, seed=5)[i]
        np.testing.assert_array_equal(views[i]["views"], again["views"])
    np.testing.assert_array_equal(views[-1]["views"], views[3]["views"])
    same = MemorySource([source[0], source[0]])
    pair = ViewsSource(same, make)
    assert not np.array_equal(pair[0]["views"], pair[1]["views"])
    assert not np.array_equal(pair[0]["views"], ViewsSource(same, make, seed=1)[0]["views"])
    with pytest.raises(ValueError, match="seed is -1"):
        ViewsSource(source, make, seed=-1)


@pytest.mark.parametrize(
    "options",
    [
        {"repeats": 0},
        {"flip_probability": 2.0},
        {"rotation": -1.0},
        {"shear": 90.0},
        {"translation": -0.1},
        {"scale_range": (0.0, 1.0)},
        {"scale_range": (1.2, 1.0)},
        {"jitter": (0.0, 0.0, 0.0, 0.7)},
    ],
)
def test_pixel_views_refuses(options):
    example = {"image": noise(20, 20, 3), "id": "a"}
    with pytest.raises(ValueError, match="; expected"):
        pixel_views(example, np.random.default_rng(0), crop_size=16, **options)


def test_random_crop_refuses():
    for options in (
        {"sides": ()},
        {"sides": (0,)},
        {"sides": (4,), "rotation": 200.0},
        {"sides": (4,), "flip_probability": -0.1},
    ):
        with pytest.raises(ValueError, match="; expected"):
            RandomCrop(8, **options)
    with pytest.raises(ValueError, match="a window of 30 from an image of 28x28"):
        RandomCrop(24, (30,))(noise(28, 28, 1), np.random.default_rng(0))
