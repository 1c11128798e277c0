"""MPI Sintel: frames of an animated film with the true optical flow to the next frame.

Butler, Wulff, Stanley, Black, "A Naturalistic Open Source Movie for Optical Flow Evaluation", ECCV
2012. Of the public release the `training` part is read, the only one with flow:
`training/clean/SCENE/frame_0001.png`, `training/final/...` (with blur and haze), and
`training/flow/SCENE/frame_0001.flo`. The last frame of a scene has no flow and is no example.
"""

import operator
import os
import pathlib
from collections.abc import Sequence
from typing import Literal, SupportsIndex, get_args

from jaxseg.data import flow, images, sources
from jaxseg.data.cache import DecodeCache
from jaxseg.types import InputError

Pass = Literal["clean", "final"]

TEST_SCENES = ("alley_2", "ambush_6", "cave_4", "market_6", "temple_3")
"""What is held out for testing unless other scenes are named. Whole scenes, since frames of one
are alike; the SSN paper's 836 and 205 pairs are not published by name."""


class SintelSource:
    """Frames as examples: `image`, and the flow from it as `target` `[H, W, 2]`.

    The same split with another choice of `test_scenes` is other data; the default is
    `TEST_SCENES`.

    Args:
      path: the folder of the release, or its `training`.
      split: "test", the `test_scenes`; "train", the other scenes; "train+test" or None, all.
      passes: "clean", "final", or both, which makes two examples of each frame.
      test_scenes: names of scenes; each must be there.
      cache_bytes: decoded images and flows are kept in memory up to this number of bytes.

    Raises:
      InputError: a folder, a scene, a split or an image is missing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        *,
        passes: Sequence[str] = ("clean",),
        test_scenes: Sequence[str] = TEST_SCENES,
        cache_bytes: int = 0,
    ):
        folder = _training_folder(pathlib.Path(path))
        if not passes or (unknown := set(passes) - set(get_args(Pass))):
            found = ", ".join(sorted(unknown)) if passes else "empty"
            raise InputError(f"passes is {found}; choose clean, final or both")
        self._pairs: list[tuple[pathlib.Path, pathlib.Path]] = []
        ids = []
        scenes = _choose(folder, split, test_scenes)
        for name in dict.fromkeys(passes):
            for scene in scenes:
                flows = sorted((folder / "flow" / scene).glob("*.flo"))
                if not flows:
                    raise InputError(f"{folder / 'flow' / scene}: no .flo; copy the scene again")
                for file in flows:
                    image = folder / name / scene / f"{file.stem}.png"
                    if not image.is_file():
                        raise InputError(f"{image}: no such image, {file} needs it; copy {name}/")
                    self._pairs.append((image, file))
                    ids.append(f"{name}/{scene}/{file.stem}")
        self.ids = tuple(ids)
        self._cache = DecodeCache(cache_bytes)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes an example.

        Raises:
          InputError: a file is damaged, or the flow has another size than its image.
        """
        image_path, flow_path = self._pairs[index]
        image = self._cache.get(image_path, lambda: images.read_image(image_path))
        target = self._cache.get(flow_path, lambda: flow.read_flow(flow_path))
        if target.shape[:2] != image.shape[:2]:
            raise InputError(
                f"{flow_path}: {target.shape[0]}x{target.shape[1]}, its image is "
                f"{image.shape[0]}x{image.shape[1]} (height x width); copy the release again"
            )
        return {"image": image, "target": target, "id": self.ids[operator.index(index)]}

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size of an example, from the header of its flow."""
        return sources.Extent(*flow.flow_size(self._pairs[index][1]), 0)


def _training_folder(root: pathlib.Path) -> pathlib.Path:
    for folder in (root / "training", root):
        if (folder / "flow").is_dir():
            return folder
    raise InputError(f"{root}: no training/flow in it; give the folder of MPI Sintel's release")


def _choose(folder: pathlib.Path, split: str | None, test_scenes: Sequence[str]) -> list[str]:
    scenes = sorted(p.name for p in (folder / "flow").iterdir() if p.is_dir())
    if missing := sorted(set(test_scenes) - set(scenes)):
        raise InputError(
            f"{folder / 'flow'}: no scene {missing[0]!r}, which is held out for testing; "
            "add it or name other test scenes"
        )
    parts = {
        "train": [s for s in scenes if s not in test_scenes],
        "test": [s for s in scenes if s in test_scenes],
    }
    chosen = []
    for name in dict.fromkeys(("train+test" if split is None else split).split("+")):
        if name not in parts:
            raise InputError(f"{folder}: no split {name!r}; there are train and test")
        chosen += parts[name]
    return chosen
