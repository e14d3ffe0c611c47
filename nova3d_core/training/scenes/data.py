"""Clips of posed images for training: procedural rooms, or folders of views."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...diffusion.network.pixelnerf import ViewPoses
from ...diffusion.scenes.poses import check_perspective, scene_frame, square_views
from ...errors import InputError
from ...io.views.layouts import TRANSFORMS
from ...io.views.transforms_json import read_views
from ...views import Views
from ..config import TrainConfig
from ..data.batches import TensorBatch
from ..data.stream import ObjectStream, object_seed
from ..procedural.rooms import random_room, render_room, room_cameras
from ..step_rng import keyed_generator

logger = logging.getLogger(__name__)

_SOURCES_KEY, _CLIP_KEY, _ORDER_KEY = 2**31 + 11, 2**31 + 12, 2**31 + 13
"""Distinguish the generators of a step's sources, of a clip and of the order of folders."""
MAX_CACHED_SCENES = 32
"""Folders of which the resized images are kept in memory."""


@dataclass(frozen=True, eq=False)
class SceneBatch(TensorBatch):
    """B clips of V posed views, and the random choices of a step."""

    images: Tensor
    """(B, V, H, W, 3) uint8."""
    world_to_camera: Tensor
    """(B, V, 4, 4) in normalised units."""
    intrinsics: Tensor
    """(B, V, 3, 3) over the image size."""
    source_index: Tensor
    """(B, S) views that are sources; the first is view 0."""
    dropout: Tensor
    """(B, 3) uniform in 0..1: decides the dropout of embeddings, latent and features."""
    jitter_seed: Tensor
    """(B,) seed of the points' positions on the rays."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def poses(self) -> ViewPoses:
        """(B, V) cameras."""
        return ViewPoses(self.world_to_camera, self.intrinsics)


def clip_item(views: Views, key: str) -> dict[str, Any]:
    """A clip of a stream: images, normalised cameras and a name."""
    poses = scene_frame([views.cameras]).poses(views.cameras)
    images = (views.colour * 255.0).round().to(torch.uint8)
    return {
        "images": images,
        "world_to_camera": poses.world_to_camera[0],
        "intrinsics": poses.intrinsics[0],
        "key": key,
    }


def collate_scenes(
    objects: Sequence[Mapping[str, Any]], indices: range, seed: int, step: int, max_sources: int
) -> SceneBatch:
    """Stacks clips, and draws their sources: 1 to `max_sources`, the same number for all.

    Args:
        objects: items of a stream.
        indices: indices of the clips in the batch over all processes.
        seed: seed of the run.
        step: number of the step.
        max_sources: largest number of sources.
    """
    views = len(objects[0]["images"])
    shared = keyed_generator(seed, step, _SOURCES_KEY)
    count = int(torch.randint(1, min(max_sources, views) + 1, (), generator=shared))
    sources, dropout, seeds = [], [], []
    for index in indices:
        generator = keyed_generator(seed, step, _SOURCES_KEY, index)
        others = 1 + torch.randperm(views - 1, generator=generator)[: count - 1]
        sources.append(torch.cat([torch.zeros(1, dtype=torch.int64), others]))
        dropout.append(torch.rand(3, generator=generator))
        seeds.append(torch.randint(2**62, (), generator=generator))
    stacked = {
        name: torch.stack([each[name] for each in objects])
        for name in ("images", "world_to_camera", "intrinsics")
    }
    return SceneBatch(
        **stacked,
        source_index=torch.stack(sources),
        dropout=torch.stack(dropout),
        jitter_seed=torch.stack(seeds),
    )


def make_clip_stream(config: TrainConfig, **distributed: int) -> ProceduralScenes | SceneFolders:
    """The training clips of one process: procedural rooms, or the folders in `data.shards`."""
    size_px, views = config.data.size_px, config.scene.views
    if config.data.source == "procedural":
        rooms = config.scene.rooms or None
        return ProceduralScenes(config.seed, size_px, views, rooms, **distributed)
    return SceneFolders(config.data.shards, config.seed, size_px, views, **distributed)


def room_views(seed: int, views: int, size_px: int) -> Views:
    """Views of a procedural room along a path."""
    cameras = room_cameras(seed, views, size_px)
    return Views(cameras, render_room(random_room(seed), cameras).clamp(0.0, 1.0))


class ProceduralScenes(ObjectStream):
    """Procedural rooms, generated on the fly.

    Args:
        seed: selects the sequence of rooms.
        size_px: width and height of the images.
        views: views of a clip.
        distinct: the sequence repeats after this many rooms, which are kept in memory; endless if
            None.
        distributed: rank, world_size and batch_size; see `ObjectStream`.
    """

    def __init__(
        self, seed: int, size_px: int, views: int, distinct: int | None = None, **distributed: int
    ):
        super().__init__(**distributed)
        self.seed, self.size_px, self.views, self.distinct = seed, size_px, views, distinct
        self._kept: dict[int, dict[str, Any]] = {}

    @property
    def total(self) -> int | None:
        return None

    def fetch(self, number: int) -> dict[str, Any]:
        """The clip of a room."""
        if self.distinct is not None:
            number %= self.distinct
        if number in self._kept:
            return self._kept[number]
        room = object_seed(self.seed, number)
        item = clip_item(room_views(room, self.views, self.size_px), f"room-{room}")
        if self.distinct is not None:
            self._kept[number] = item
        return item

    def identity(self) -> dict[str, Any]:
        return {"source": "rooms", "seed": self.seed, "distinct": self.distinct}


class SceneFolders(ObjectStream):
    """Clips of folders with posed images: transforms.json or a COLMAP model in each.

    A clip is a run of consecutive images of a folder, at a random place; a folder with fewer images
    is followed back and forth, as V3D pads short clips. Images are cropped to their central square
    and resized; poses are normalised per clip. All folders are visited once per epoch, in random
    order.

    Args:
        roots: folders of views, or folders that contain them.
        seed: of order and places.
        size_px: width and height of the images.
        views: views of a clip.
        distributed: rank, world_size and batch_size; see `ObjectStream`.

    Raises:
        InputError: a root contains no folder of views.
    """

    def __init__(
        self, roots: Sequence[str], seed: int, size_px: int, views: int, **distributed: int
    ):
        super().__init__(**distributed)
        self.seed, self.size_px, self.views = seed, size_px, views
        self.folders = find_scene_folders(roots)
        self._kept: dict[Path, Views] = {}

    @property
    def total(self) -> int | None:
        return None

    def fetch(self, number: int) -> dict[str, Any]:
        """A clip; the next folder's where one cannot be read.

        Raises:
            InputError: no folder can be read.
        """
        return clip_item(*self.clip_views(number))

    def clip_views(self, number: int) -> tuple[Views, str]:
        """The views of a clip, and its folder; errors as in `fetch`."""
        epoch, place = divmod(number, len(self.folders))
        order = torch.randperm(
            len(self.folders), generator=keyed_generator(self.seed, _ORDER_KEY, epoch)
        ).tolist()
        for offset in range(len(self.folders)):
            folder = self.folders[order[(place + offset) % len(self.folders)]]
            if str(folder) in self.unreadable:
                continue
            try:
                return self._clip(folder, number)
            except InputError as error:
                self.unreadable[str(folder)] = error.message
        folder, reason = next(iter(self.unreadable.items()))
        raise InputError(f"no folder of the training data can be read, for example: {reason}")

    def _clip(self, folder: Path, number: int) -> tuple[Views, str]:
        views = self._kept.get(folder)
        if views is None:
            loaded = read_views(folder)
            check_perspective(loaded.cameras, str(folder))
            if len(loaded) < 2:
                raise InputError(f"{folder} has {len(loaded)} image, expected at least 2.")
            views = square_views(loaded, self.size_px)
            if len(self._kept) >= MAX_CACHED_SCENES:
                self._kept.pop(next(iter(self._kept)))
            self._kept[folder] = views
        generator = keyed_generator(self.seed, _CLIP_KEY, number)
        latest = max(len(views) - self.views, 0)
        start = int(torch.randint(latest + 1, (), generator=generator))
        chosen = [start + _back_and_forth(i, len(views) - start) for i in range(self.views)]
        return views[chosen], str(folder)

    def identity(self) -> dict[str, Any]:
        return {"source": "scene folders", "seed": self.seed, "folders": len(self.folders)}


def _back_and_forth(index: int, count: int) -> int:
    """Position of an index in a sequence of `count` that is followed back and forth."""
    index %= 2 * count - 2
    return min(index, 2 * count - 2 - index)


def find_scene_folders(roots: Sequence[str]) -> list[Path]:
    """Folders of views among the roots and one level below, sorted.

    Raises:
        InputError: a root is missing, or contains images without poses.
    """
    found: list[Path] = []
    for root in map(Path, roots):
        if not root.is_dir():
            raise InputError(f"folder {root} of the training data does not exist.")
        candidates = [root] if _has_poses(root) else sorted(p for p in root.iterdir() if p.is_dir())
        with_poses = [folder for folder in candidates if _has_poses(folder)]
        if not with_poses:
            raise InputError(
                f"{root} contains no posed images: no {TRANSFORMS} and no COLMAP model (sparse/0).",
                "Estimate the poses with COLMAP, or export them as transforms.json.",
            )
        found += with_poses
    return found


def _has_poses(folder: Path) -> bool:
    return (folder / TRANSFORMS).is_file() or (folder / "sparse").is_dir()
