"""Write one page that shows the images, the run and the network: report.html, which opens anywhere and loads nothing.

    multicrop report photos                            # counts, contact sheet, duplicates, suspect labels, outliers
    multicrop report runs/ssl                          # also curves, and what the network has learned
    multicrop report runs/ssl runs/other               # the curves of several runs
    multicrop report runs/ssl --watch                  # rewritten while the run goes on

What cannot be made is left out with a line that says why. Every flag: config/report.py.
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from multicrop.commands import (
    _report_classifier,
    _report_data,
    _report_learned,
    _report_run,
    _report_write,
)
from multicrop.commands._conversion import conversion_of
from multicrop.commands._origin import DataOrigin, data_origin
from multicrop.commands._report_block import attempt
from multicrop.commands._report_features import Comparing
from multicrop.commands._report_folder import RunFolder, is_run
from multicrop.commands._report_images import SplitImages, read_split
from multicrop.commands._targets import image_origin
from multicrop.commands.check import recognise, run_name, splits_of
from multicrop.config.report import Recipe
from multicrop.engine import lock, ranks
from multicrop.engine.files import first_line
from multicrop.engine.metadata import Metadata
from multicrop.pictures.page import Block, LeftOut, Section, check_installed
from multicrop.weights import pretrained
from multicrop.weights.pretrained import Pretrained

NAMED = 3  # runs in the title


def run(recipe: Recipe) -> dict[str, Any]:
    check_installed()
    device = ranks.start(recipe.machine.device)
    if ranks.world_size() > 1:
        raise ValueError("report runs in one process: start it without torchrun")
    paths = [Path(path).expanduser() for path in recipe.paths]
    runs = [path for path in paths if is_run(path)]
    if len(paths) > 1 and len(runs) < len(paths):
        other = next(path for path in paths if path not in runs)
        raise ValueError(f"{other} is no folder of a run: several paths are several runs")
    if recipe.page.watch:
        if not runs:
            raise ValueError(f"--watch: {paths[0]} is no folder of a run")
        watch(recipe, runs[0])

    # What it is about.
    file, problem = network_of(recipe, runs)
    comparing = Comparing(file, recipe.looking.seed, device)
    page = page_of(recipe, runs)
    files = page.parent / f"{page.stem}_files"
    _report_write.make_folder(files)

    # Its parts.
    sections: list[Section] = []
    if "run" in recipe.page.parts and runs:
        sections.append(_report_run.section([RunFolder.read(path) for path in runs]))
    if problem:
        sections.append(Section("The network", [LeftOut("the network", problem)]))
    if len(runs) < 2:
        sections += image_sections(recipe, runs, comparing, files)
    if not sections:
        parts = " ".join(recipe.page.parts)
        raise ValueError(
            f"--parts {parts}: there is none of them for {paths[0]}; nothing was written"
        )
    title = ", ".join(path.name or str(path) for path in paths[:NAMED])
    title += f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    _report_write.write(page, title, sections, files)
    size = page.stat().st_size
    ranks.log(f"{page}: {size / 1e6:.1f} MB; its pictures and tables: {files}")
    blocks = [block for section in sections for block in section.blocks]
    left_out = [block.what for block in blocks if isinstance(block, LeftOut)]
    result = {"page": str(page), "files": str(files), "bytes": size, "left_out": left_out}
    return {"status": "finished", **result}


def network_of(recipe: Recipe, runs: list[Path]) -> tuple[Pretrained | None, str]:
    """Of a run its newest checkpoint, of a data set --network; None where there is none, and why a run has none."""
    looking = recipe.looking
    if looking.network:
        return described(pretrained.read(looking.network, trust=looking.trust_checkpoint)), ""
    if len(runs) != 1:
        return None, ""
    try:
        return described(pretrained.read(runs[0], trust=looking.trust_checkpoint)), ""
    except (ValueError, OSError) as error:  # a run that has just begun, or was damaged
        ranks.log(f"report: without the network of {runs[0]}: {error}")
        return None, first_line(error)


def described(file: Pretrained) -> Pretrained:
    if not file.metadata.backbone:
        raise ValueError(
            f"{file.path} is no checkpoint of ours: a report needs one that describes itself"
        )
    return file


def page_of(recipe: Recipe, runs: list[Path]) -> Path:
    """Where the page goes."""
    if recipe.page.output:
        return Path(recipe.page.output).expanduser()
    if len(runs) == 1:
        return runs[0] / "report.html"
    if runs:
        return runs[0].parent / "report.html"
    source, _ = recognise(recipe.paths[0], recipe.data.dataset, recipe.data.columns)
    return Path("runs", "report", run_name(recipe.paths[0], source), "report.html")


def image_sections(
    recipe: Recipe, runs: list[Path], comparing: Comparing, files: Path
) -> list[Section]:
    """What the network has learned, the classifier, and the images."""
    parts = set(recipe.page.parts) - {"run"}
    splits: list[SplitImages] = []
    found: list[DataOrigin] = []

    def read() -> Iterator[Block]:
        origin, names = images_of(recipe, runs, comparing)
        found.append(origin)
        settings = comparing.source_size, recipe.looking.images, recipe.data.workers
        for split in names:
            make = partial(read_into, splits, origin, split, *settings)
            yield from attempt(f"{split} images", make)

    if not parts:
        return []
    problems = attempt("images", read) if runs else list(read())
    if not (splits or runs):
        reasons = [block.why for block in problems if isinstance(block, LeftOut)]
        raise ValueError(f"{recipe.paths[0]}: {' '.join(reasons)}")
    sections: list[Section] = []
    file = comparing.file
    if splits and runs and file is not None:
        if "learned" in parts:
            sections.append(_report_learned.section(splits, comparing, recipe.looking, files))
        if "classifier" in parts and file.head:
            sections.append(_report_classifier.section(splits[-1], comparing, runs[0]))
    if splits and "data" in parts:
        origin = found[0]
        sections.append(
            _report_data.section(
                origin.source, origin.datapath, splits, comparing, recipe.looking, files
            )
        )
    if problems:
        sections.append(Section("The images", problems))
    return sections


def read_into(splits: list[SplitImages], *words: Any) -> tuple[Block, ...]:
    """Read a split, and put it behind the others."""
    splits.append(read_split(*words))
    return ()


def images_of(
    recipe: Recipe, runs: list[Path], comparing: Comparing
) -> tuple[DataOrigin, tuple[str, ...]]:
    """The data set and its splits, train first and test last."""
    if runs:
        if comparing.file is None:
            origin = data_origin(recipe.data, stated_by(runs[0]))
        else:
            origin, _ = image_origin(recipe.data, comparing.file, comparing.image_size)
    else:
        _, name = recognise(recipe.paths[0], recipe.data.dataset, recipe.data.columns)
        metadata = comparing.file.metadata if comparing.file else None
        conversion = conversion_of(recipe.data, name, metadata)
        columns = tuple(recipe.data.columns.items())
        origin = DataOrigin(name, recipe.paths[0], None, columns, conversion)
    names = splits_of(origin.source, origin.datapath)
    return origin, tuple(sorted(names, key=("train", "val", "test").index))


def stated_by(run_folder: Path) -> Metadata:
    """What the recipe of a run without a checkpoint says of its images. ValueError where it says nothing."""
    stated = RunFolder.read(run_folder).recipe
    if not stated.get("dataset"):
        raise ValueError("neither a checkpoint nor a recipe says which images the run has")
    data = {"dataset": stated["dataset"], "fit": stated.get("fit"), "value_range": {}}
    channels = stated.get("channels")
    data |= {"channels": "all"} if channels == "all" else {}
    backbone = {"in_channels": 0 if channels == "all" else 1 if channels == "1" else 3}
    return Metadata(stated.get("kind", ""), recipe=stated, data=data, backbone=backbone)


def watch(recipe: Recipe, run_folder: Path) -> None:
    """Rewrite the part about the run until it has ended."""
    page = page_of(recipe, [run_folder])
    files = page.parent / f"{page.stem}_files"
    _report_write.make_folder(files)
    rows = -1
    while lock.is_held(run_folder):
        state = RunFolder.read(run_folder)
        if len(state.rows) != rows:
            rows = len(state.rows)
            sections = [_report_run.section([state])]
            _report_write.write(
                page, f"{run_folder.name}, going on", sections, None, recipe.page.every
            )
            ranks.log(f"{page}: {rows} rows")
        time.sleep(recipe.page.every)
    ranks.log(f"{run_folder} has ended, or was not running: the whole page follows")
