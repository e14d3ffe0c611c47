"""Meshes or procedural objects to a folder of shards: in parallel, resumed shard by shard."""

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
from .shard_writer import FORMAT, Members, encode_members, write_shard
from .shards import read_shard
from .workers import STAGE, TaskRunner, task_runner

logger = logging.getLogger(__name__)

SKIPPED = "skipped.json"
CHUNK = 10
"""Objects that a worker renders at a time; a stop takes effect after so many."""


@dataclass
class DatasetSummary:
    """What came of rendering a set."""

    folder: Path
    shards: int = 0
    """Tar files in the folder."""
    kept: int = 0
    """Of these, how many an earlier run had finished."""
    objects: int = 0
    """Objects in all shards."""
    grey: int = 0
    """Objects without colours of their own."""
    open: int = 0
    """Objects whose surface is not closed."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """What could not be rendered: its name and the reason."""


def render_dataset(
    source: MeshList | ProceduralObjects,
    folder: Path | str,
    config: DatasetConfig | None = None,
    workers: int = 1,
    ray: str | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> DatasetSummary:
    """Renders a set of objects into `folder/shard-000000.tar` and so on.

    A shard appears when it is whole. Called again with the same source and settings, finished
    shards are kept and the rest is rendered; the result does not depend on stops, nor on workers.

    Args:
        source: where the objects come from.
        folder: for the shards, `dataset.json` and `skipped.json`.
        config: images, sizes, limits.
        workers: processes that render; 1 renders in this one.
        ray: address of a Ray cluster that renders instead ("auto", "local", host:port).
        overwrite: render anew what an earlier run with other settings left in the folder.
        progress: told of each few objects.

    Returns:
        What was rendered and what was skipped, earlier runs included.

    Raises:
        InputError: the folder holds a set with other settings, or cannot be written.
        StageError: a worker died.
        Cancelled: the user stopped; finished shards stay.
    """
    config, folder = config or DatasetConfig(), Path(folder)
    identity = {"format": FORMAT, **source.identity(), **asdict(config)}
    with task_runner(workers, ray) as run:  # looked for first: it may be missing
        open_dataset_dir(folder, identity, overwrite)
        result = DatasetSummary(folder)
        numbers = range(0, source.count, config.objects_per_shard)
        progress.update(STAGE, 0, source.count)
        for index, start in enumerate(numbers):
            stop = min(start + config.objects_per_shard, source.count)
            path = folder / f"shard-{index:06d}.tar"
            about = _finished(path, start, stop)
            if about is None:
                about = _render_shard(run, source, config, path, (start, stop), progress)
            else:
                result.kept += 1
            progress.update(STAGE, stop, source.count)
            _count(result, about)
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
    """Renders and writes one shard; what it says of itself."""
    start, stop = span
    chunks = [range(at, min(at + CHUNK, stop)) for at in range(start, stop, CHUNK)]
    objects: list[tuple[str, Members]] = []
    skipped: list[dict[str, str]] = []
    notes = {GREY_NOTE: 0, OPEN_NOTE: 0}
    done = start
    tasks = [(source, config, chunk) for chunk in chunks]
    for chunk, answers in zip(chunks, run(render_chunk, tasks), strict=True):
        for answer in answers:
            if "reason" in answer:
                skipped.append(answer)
                logger.warning("skipped: %s", answer["reason"])
            else:
                objects.append((answer["key"], answer["members"]))
                for note in answer["notes"]:
                    notes[note] += 1
        done += len(chunk)
        progress.update(STAGE, done, source.count)
    about = {
        "first": start,
        "stop": stop,
        "views": config.image.views,
        "size_px": config.image.size_px,
        "light": asdict(config.image.light),
        "grey": notes[GREY_NOTE],
        "open": notes[OPEN_NOTE],
        "skipped": skipped,
    }
    write_shard(path, objects, about, overwrite=True)
    return {**about, "count": len(objects)}


def render_chunk(
    task: tuple[MeshList | ProceduralObjects, DatasetConfig, range],
) -> list[dict[str, Any]]:
    """Renders a few objects; run by workers.

    Returns:
        For each, its key, its files and notes, or its source and why it was skipped.
    """
    source, config, numbers = task
    answers = []
    for number in numbers:
        try:
            key, images, about = source.item(number, config)
        except Exception as error:
            if not (isinstance(error, Nova3DError) or is_out_of_memory(error)):
                raise
            name = source.paths[number // source.yaws_per_mesh] if isinstance(source, MeshList) else ""
            reason = str(error) or "memory ran out"
            answers.append({"source": name or f"object {number}", "reason": reason})
            continue
        members = encode_members(images, about, config.image_format)
        answers.append({"key": key, "members": members, "notes": about["notes"]})
    return answers


def _finished(path: Path, start: int, stop: int) -> dict[str, Any] | None:
    """What a finished shard says of itself; None if it has to be rendered."""
    if not path.exists():
        return None
    try:
        about = read_shard(path, strict=True).about
    except InputError as error:
        logger.warning("%s It is rendered again.", error.message)
        return None
    return about if (about.get("first"), about.get("stop")) == (start, stop) else None


def _count(result: DatasetSummary, about: dict[str, Any]) -> None:
    result.shards += 1
    result.objects += about["count"]
    result.grey += about["grey"]
    result.open += about["open"]
    result.skipped += about["skipped"]
