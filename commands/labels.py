"""Label efficiency: accuracy with 1, 5, 10, 25, 100 percent of the labels, by k-NN, linear probe and finetuning.

    multicrop labels runs/ssl                        # k-NN and logistic regression on frozen features
    multicrop labels runs/ssl --finetune --scratch   # also runs of stage two, from the weights and from random ones

Checkpoint -> images -> features, once -> for each share of labels several draws -> accuracies -> table, curve. Raw
pixels and random weights come first, as baselines. An interrupted measurement goes on where it was. Every flag:
config/labels.py. N images, D width.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multicrop.commands._data import labelled_images, load_options
from multicrop.commands._labels_finetune import Finetunings, Interrupted
from multicrop.commands._labels_frozen import Frozen
from multicrop.commands._labels_rows import ROWS, Job, Row, Rows, curves
from multicrop.commands._stopping import stoppable
from multicrop.commands._targets import image_origin, read_model, targets
from multicrop.config.labels import Draws, Recipe
from multicrop.datasets._images import ImageSet
from multicrop.engine import ranks
from multicrop.engine.files import atomic_write, write_errors
from multicrop.engine.fingerprint import dataset_fingerprint
from multicrop.engine.optional import optional
from multicrop.engine.progress import Progress
from multicrop.pictures.labels import draw_label_efficiency
from multicrop.probes import linear
from multicrop.weights import published
from multicrop.weights.pretrained import Pretrained

RESULT, PICTURE = "labels.json", "labels.png"


def run(recipe: Recipe) -> dict:
    device = ranks.start(recipe.machine.device)
    if recipe.methods.linear:
        linear.check_installed()  # before images are read
    begun = time.perf_counter()

    # The networks: what is wrong is said before a long decoding.
    file = read_model(recipe.model, recipe.weights)
    if file.metadata.kind == "finetune":
        ranks.log(f"{file.path} was finetuned: its features have seen all labels that its run had")
    probed = list(targets([file], recipe.weights, recipe.backbone, recipe.methods.raw_pixels))
    origin, source_size = image_origin(recipe.data, file, probed[-1].backbone["image_size"])
    folder = output_folder(recipe, file)
    network = probed[-1].backbone
    runs = Finetunings(recipe, file, network, origin, folder) if recipe.methods.trains else None
    rows = Rows(folder / ROWS)

    with stoppable() as interrupt:  # also while images are decoded
        # Images, and what is to be measured on them.
        train, test = labelled_images(origin, load_options(recipe.data, source_size))
        assert train.labels is not None
        say_small_classes(recipe.labels, train)
        images = {
            "train": dataset_fingerprint(origin.dataset, train),
            "test": dataset_fingerprint(origin.dataset, test),
        }
        frozen = Frozen(recipe, train, test, device)
        jobs: list[Job] = []
        for target in probed:
            jobs += frozen.jobs(target, images)
        if runs:
            jobs += runs.jobs(train.labels, images, frozen.weights[-1])

        # Rows: those that are there, and those that are measured now.
        status, done = measure(jobs, rows, lambda: interrupt.asked)

    result = {
        "status": status,
        "checkpoint": str(file.path),
        "dataset": origin.dataset,
        "train_images": len(train),
        "test_images": len(test),
        "rows": str(rows.path),
        "done": len(done),
        "missing": len(jobs) - len(done),
        "curves": curves(done),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    return result if status == "interrupted" else write(result, folder)


def output_folder(recipe: Recipe, file: Pretrained) -> Path:
    """Of published weights never beside them: those lie in a cache. OSError where no folder can be made there."""
    assert file.path is not None
    folder = Path("runs/labels") if published.is_name(recipe.model) else file.path.parent / "labels"
    folder = Path(recipe.machine.output_dir or folder)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def say_small_classes(draws: Draws, train: ImageSet) -> None:
    """A line about shares of which small classes have more than their part, for they have one image."""
    assert train.labels is not None
    sizes = train.labels.bincount()
    smallest = int(sizes[sizes > 0].min())
    few = [percent for percent in draws.fractions if round(percent / 100 * smallest) < 1]
    if few:
        shares = ", ".join(f"{percent:g}" for percent in sorted(few))
        ranks.log(
            f"the smallest class has {smallest} training images: with {shares} percent of the labels, classes as small "
            "as that keep one"
        )


def measure(jobs: list[Job], rows: Rows, asked: Callable[[], bool]) -> tuple[str, list[Row]]:
    """The loop; it ends early where a signal asks for it: "finished" or "interrupted", and the rows so far."""
    done: list[Row] = []
    found = [rows.get(job.cell, job.settings) for job in jobs]
    there = sum(row is not None for row in found)
    if there:
        ranks.log(f"{there} of {len(jobs)} rows are in {rows.path} already")
    progress = Progress(len(jobs), there, 1)
    try:
        for job, row in zip(jobs, found, strict=True):
            if row is None:
                if not ranks.all_true(not asked()):
                    return "interrupted", done
                row = rows.add(job.cell, job.settings, job.measure())
                progress.step()
            done.append(row)
    except Interrupted:
        return "interrupted", done
    finally:
        progress.close()
    return "finished", done


# What people see


def write(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The table, the result's file and the curve."""
    show(result)
    path, picture = folder / RESULT, folder / PICTURE
    result |= {"file": str(path), "picture": str(picture)}
    if ranks.rank() == 0:
        with atomic_write(path) as file:
            file.write((json.dumps(result) + "\n").encode())
        with optional(str(picture)):
            title = f"{result['dataset']}: {result['test_images']} test images"
            draw_label_efficiency(result["curves"], title, picture)
            ranks.log(f"{path}, {picture}")
    return result


def show(result: dict[str, Any]) -> None:
    """Mean and deviation of top-1 for each network, method and share of labels."""
    shares = sorted({point["percent"] for curve in result["curves"] for point in curve["points"]})
    images = {
        point["percent"]: point["images"] for curve in result["curves"] for point in curve["points"]
    }
    ranks.log(
        f"top-1 accuracy in percent of {result['test_images']} test images of {result['dataset']}, mean (deviation) of "
        "the draws"
    )
    names = [f"{curve['network']}, {curve['method']}" for curve in result["curves"]]
    width = max(map(len, [*names, "images with labels"]))
    heads = "".join(f"{f'{share:g} %':>16}" for share in shares)
    counts = "".join(f"{images[share]:>16}" for share in shares)
    ranks.log(f"{'labels':<{width}}{heads}")
    ranks.log(f"{'images with labels':<{width}}{counts}")
    for name, curve in zip(names, result["curves"], strict=True):
        ranks.log(f"{name:<{width}}{''.join(shown(point) for point in curve['points'])}")


def shown(point: dict[str, Any]) -> str:
    deviation = point["top1_std"]
    spread = "" if deviation is None else f" ({deviation:.2f})"
    return f"{point['top1']:.2f}{spread}".rjust(16)
