"""Meshes or procedural objects to a folder of shards: in parallel, resumed shard by shard."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, Nova3DError
from ..io.atomic import new_file, refuse_unwritable
from ..progress import SILENT, Progress
from .data_config import DatasetConfig
from .in_parallel import STAGE, Runner, runner
from .shard_writer import FORMAT, Members, members_of, write_shard
from .shards import read_shard
from .sources import GREY_NOTE, OPEN_NOTE, MeshList, Procedural

logger = logging.getLogger(__name__)

SETTINGS, SKIPPED = "dataset.json", "skipped.json"
CHUNK = 10
"""Objects that a worker renders at a time; a stop takes effect after so many."""


@dataclass
class Rendered:
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
    source: MeshList | Procedural,
    folder: Path | str,
    config: DatasetConfig | None = None,
    workers: int = 1,
    ray: str | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Rendered:
    """Renders a set of objects into `folder/shard-000000.tar` and so on.

    A shard appears when it is whole. Called again with the same source and settings, finished
    shards are kept and the rest is rendered; the result does not depend on stops, nor on workers.

    Args:
        source: where the objects come from.
        folder: for the shards, `dataset.json` and `skipped.json`.
        config: pictures, sizes, limits.
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
    identity = {"format": FORMAT, **source.identity(), **_as_json(asdict(config))}
    with runner(workers, ray) as run:  # looked for first: it may be missing
        _claim(folder, identity, overwrite)
        result = Rendered(folder)
        numbers = range(0, source.count, config.per_shard)
        progress.update(STAGE, 0, source.count)
        for index, start in enumerate(numbers):
            stop = min(start + config.per_shard, source.count)
            path = folder / f"shard-{index:06d}.tar"
            about = _finished(path, start, stop)
            if about is None:
                about = _render_shard(run, source, config, path, (start, stop), progress)
            else:
                result.kept += 1
            progress.update(STAGE, stop, source.count)
            _count(result, about)
    _write_json(folder / SKIPPED, result.skipped)
    return result


def _render_shard(
    run: Runner,
    source: MeshList | Procedural,
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
        "views": config.picture.views,
        "size_px": config.picture.size_px,
        "light": asdict(config.picture.light),
        "grey": notes[GREY_NOTE],
        "open": notes[OPEN_NOTE],
        "skipped": skipped,
    }
    write_shard(path, objects, about, overwrite=True)
    return {**about, "count": len(objects)}


def render_chunk(
    task: tuple[MeshList | Procedural, DatasetConfig, range],
) -> list[dict[str, Any]]:
    """Renders a few objects; run by workers.

    Returns:
        For each, its key, its files and notes, or its source and why it was skipped.
    """
    source, config, numbers = task
    answers = []
    for number in numbers:
        try:
            key, pictures, about = source.item(number, config)
        except (Nova3DError, MemoryError) as error:
            name = source.paths[number // source.fronts] if isinstance(source, MeshList) else ""
            reason = str(error) or "memory ran out"
            answers.append({"source": name or f"object {number}", "reason": reason})
            continue
        members = members_of(pictures, about, config.pictures_as)
        answers.append({"key": key, "members": members, "notes": about["notes"]})
    return answers


def _claim(folder: Path, identity: dict[str, Any], overwrite: bool) -> None:
    """Makes the folder this set's own, or raises InputError if it is another set's."""
    settings = folder / SETTINGS
    if folder.is_file():
        raise InputError(f"{folder} is a file.", "Name a folder.")
    held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    earlier = _settings_of(settings) if SETTINGS in held else None
    if earlier == identity:
        return
    if earlier is None and any(not name.startswith(".") for name in held):
        raise InputError(
            f"{folder} is not empty and holds no set of training objects.", "Choose another folder."
        )
    if earlier is not None and not overwrite:
        raise InputError(
            f"{folder} holds a set with other settings: {_differences(earlier, identity)}.",
            "Choose another folder, or pass --overwrite to render it anew.",
        )
    refuse_unwritable(settings)
    for old in folder.glob("shard-*.tar") if earlier is not None else ():
        old.unlink()
    _write_json(settings, identity)


def _settings_of(path: Path) -> dict[str, Any]:
    """An earlier run's settings; damaged ones are unlike any."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _differences(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed, in words."""
    flat = [dict(_flattened(each)) for each in (earlier, now)]
    names = [name for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name)]
    return ", ".join(f"{n} was {flat[0].get(n)}, now {flat[1].get(n)}" for n in names)


def _flattened(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{above}{name}.")
        else:
            yield above + name, value


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


def _count(result: Rendered, about: dict[str, Any]) -> None:
    result.shards += 1
    result.objects += about["count"]
    result.grey += about["grey"]
    result.open += about["open"]
    result.skipped += about["skipped"]


def _as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def _write_json(path: Path, value: Any) -> None:
    with new_file(path, overwrite=True) as beside:
        beside.write_text(json.dumps(value, indent=1), encoding="utf-8")
