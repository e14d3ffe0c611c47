"""Renders meshes or procedural objects into shards: in parallel, resumable shard by shard."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...compute.devices import is_out_of_memory
from ...errors import InputError, Nova3DError
from ...progress import SILENT, Progress
from .config import DatasetConfig
from .dataset_lock import open_dataset_dir, write_json
from .mesh_sources import GREY_NOTE, OPEN_NOTE, MeshList, ProceduralObjects
from .shard_writer import SHARD_FORMAT, Members, encode_members, write_shard
from .shards import read_shard
from .workers import STAGE, TaskRunner, task_runner

logger = logging.getLogger(__name__)

SKIPPED = "skipped.json"
CHUNK_SIZE = 10
"""Objects per task of a worker; a cancellation takes effect after a task."""


@dataclass
class DatasetSummary:
    """Result of `render_dataset`."""

    folder: Path
    shards: int = 0
    """Tar files in the folder."""
    kept: int = 0
    """Of these, finished by an earlier run."""
    objects: int = 0
    """Objects in all shards."""
    grey: int = 0
    """Objects without texture and vertex colours."""
    open: int = 0
    """Objects whose surface is open or non-manifold."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Objects that could not be rendered: source and reason."""


def render_dataset(
    source: MeshList | ProceduralObjects,
    folder: Path | str,
    config: DatasetConfig | None = None,
    workers: int = 1,
    ray: str | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> DatasetSummary:
    """Renders objects into `folder/shard-000000.tar` and so on.

    Shards are written atomically. A second call with the same source and settings keeps finished
    shards and renders the rest; interruptions and the number of workers do not affect the result.

    Args:
        source: the objects.
        folder: for the shards, `dataset.json` and `skipped.json`.
        config: images, sizes, limits.
        workers: rendering processes; 1 renders in the calling one.
        ray: address of a Ray cluster to render on instead ("auto", "local", host:port).
        overwrite: replace shards of an earlier run with other settings.
        progress: updated every few objects.

    Returns:
        Counts of rendered and skipped objects, earlier runs included.

    Raises:
        InputError: the folder holds a dataset with other settings, or cannot be written.
        StageError: a worker died.
        Cancelled: by the user; finished shards are kept.
    """
    config, folder = config or DatasetConfig(), Path(folder)
    identity = {"format": SHARD_FORMAT, **source.identity(), **asdict(config)}
    with task_runner(workers, ray) as run:  # first, because Ray may be missing
        open_dataset_dir(folder, identity, overwrite)
        result = DatasetSummary(folder)
        numbers = range(0, source.count, config.objects_per_shard)
        progress.update(STAGE, 0, source.count)
        for index, start in enumerate(numbers):
            stop = min(start + config.objects_per_shard, source.count)
            path = folder / f"shard-{index:06d}.tar"
            info = _read_finished(path, start, stop)
            if info is None:
                info = _render_shard(run, source, config, path, (start, stop), progress)
            else:
                result.kept += 1
            progress.update(STAGE, stop, source.count)
            _count(result, info)
    write_json(folder / SKIPPED, result.skipped)
    return result


def _render_shard(
    run: TaskRunner,
    source: MeshList | ProceduralObjects,
    config: DatasetConfig,
    path: Path,
    span: tuple[int, int],
    progress: Progress,
) -> dict[str, Any]:
    """Renders and writes one shard; returns its description."""
    start, stop = span
    chunks = [range(at, min(at + CHUNK_SIZE, stop)) for at in range(start, stop, CHUNK_SIZE)]
    objects: list[tuple[str, Members]] = []
    skipped: list[dict[str, str]] = []
    notes = {GREY_NOTE: 0, OPEN_NOTE: 0}
    done = start
    tasks = [(source, config, chunk) for chunk in chunks]
    for chunk, results in zip(chunks, run(render_chunk, tasks), strict=True):
        for each in results:
            if "reason" in each:
                skipped.append(each)
                logger.warning("skipped: %s", each["reason"])
            else:
                objects.append((each["key"], each["members"]))
                for note in each["notes"]:
                    notes[note] += 1
        done += len(chunk)
        progress.update(STAGE, done, source.count)
    info = {
        "first": start,
        "stop": stop,
        "views": config.image.view_count,
        "family": config.image.family,
        "size_px": config.image.size_px,
        "light": asdict(config.image.light),
        "grey": notes[GREY_NOTE],
        "open": notes[OPEN_NOTE],
        "skipped": skipped,
    }
    write_shard(path, objects, info, overwrite=True)
    return {**info, "count": len(objects)}


def render_chunk(
    task: tuple[MeshList | ProceduralObjects, DatasetConfig, range],
) -> list[dict[str, Any]]:
    """Renders a few objects, in a worker.

    Returns:
        For each object: key, files and notes, or source and reason if it was skipped.
    """
    source, config, numbers = task
    results = []
    for number in numbers:
        try:
            key, images, metadata = source.render(number, config)
        except Exception as error:
            if not (isinstance(error, Nova3DError) or is_out_of_memory(error)):
                raise
            name = (
                source.paths[number // source.yaws_per_mesh] if isinstance(source, MeshList) else ""
            )
            reason = str(error) or "out of memory"
            results.append({"source": name or f"object {number}", "reason": reason})
            continue
        members = encode_members(images, metadata, config.image_format)
        results.append({"key": key, "members": members, "notes": metadata["notes"]})
    return results


def _read_finished(path: Path, start: int, stop: int) -> dict[str, Any] | None:
    """Description of a finished shard; None if it must be rendered."""
    if not path.exists():
        return None
    try:
        info = read_shard(path, strict=True).info
    except InputError as error:
        logger.warning("%s It will be rendered again.", error.message)
        return None
    return info if (info.get("first"), info.get("stop")) == (start, stop) else None


def _count(result: DatasetSummary, info: dict[str, Any]) -> None:
    result.shards += 1
    result.objects += info["count"]
    result.grey += info["grey"]
    result.open += info["open"]
    result.skipped += info["skipped"]
