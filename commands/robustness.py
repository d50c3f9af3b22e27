"""Robustness of a classifier: its errors on corrupted test images, and the calibration of its probabilities.

    multicrop robustness runs/finetune                             # robustness.json and robustness.png beside it
    multicrop robustness runs/finetune --published CIFAR-10-C      # the published files

Checkpoint -> clean test images -> every corruption at every severity -> logits -> errors -> means, table, curves. An
interrupted measurement goes on where it was. Every flag: config/robustness.py.
"""

import json
from pathlib import Path
from typing import Any

import torch.nn as nn

from multicrop.commands._corrupted import Made, Published, corrupted_images
from multicrop.commands._corruption_errors import FILES, Reference, means_of, rows_of
from multicrop.commands._data import (
    eval_transform,
    labelled_images,
    load_options,
    resolve_source_size,
)
from multicrop.commands._kept import say_which
from multicrop.commands._measurements import Measured, Measurements
from multicrop.commands._networks import backbone_of, check_channels
from multicrop.commands._origin import data_origin
from multicrop.commands._result_parts import say_replaced
from multicrop.commands._stopping import stoppable
from multicrop.config.robustness import Recipe
from multicrop.datasets._images import ImageSet
from multicrop.engine import ranks
from multicrop.engine.files import atomic_write, write_errors
from multicrop.engine.fingerprint import dataset_fingerprint, weights_hash
from multicrop.engine.interrupt import Interrupt
from multicrop.engine.precision import autocast_dtype
from multicrop.engine.progress import Progress
from multicrop.pictures.robustness import draw_robustness
from multicrop.supervised.classifier import Classifier
from multicrop.weights import pretrained
from multicrop.weights.pretrained import Pretrained


def run(recipe: Recipe) -> dict:
    device = ranks.start(recipe.machine.device)
    if ranks.world_size() > 1:
        raise ValueError("robustness runs in one process: start it without torchrun")

    # The classifier, and where corrupted images come from: what is wrong is said before a long decoding.
    kind = "published" if recipe.corruption.published else "made"
    reference = read_reference(recipe, kind)
    file = read_classifier(recipe)
    output = output_file(recipe, file, FILES[kind])
    size = file.metadata.backbone["image_size"]
    origin = data_origin(recipe.data, file.metadata)
    source_size = resolve_source_size(origin.source_size, size, crops=False)
    options = load_options(recipe.data, source_size)
    source = corrupted_images(recipe.corruption, options, device)
    severities = sorted(set(recipe.corruption.severities))

    with stoppable() as interrupt:  # also while images are decoded
        # Clean images, as finetune --eval reads them.
        (clean,) = labelled_images(origin, options, ("test",))
        file.check_classes(clean.classes, origin.dataset)
        source.check(clean)
        settings = {"dataset": origin.dataset, "images": len(clean), **source.identity}
        if reference:
            reference.check(source.names, {**settings, "severities": severities})

        # Every corruption at every severity.
        model = build(file, clean).to(device)
        transform = eval_transform(file.metadata, size, clean)
        dtype = autocast_dtype(recipe.machine.precision, device)
        fit = file.temperature()
        temperature = fit["temperature"] if fit else None
        batch_size = recipe.machine.batch_size
        classifier = Measured(model, transform, device, dtype, batch_size, temperature)
        identity = {
            **settings,
            **dataset_fingerprint(origin.dataset, clean),
            "weights": weights_hash(model),
            "precision": recipe.machine.precision,
            "temperature": temperature,
        }
        measured = Measurements(output.with_suffix(".partial.json"), identity)
        progress = measure(classifier, source, clean, severities, measured, interrupt)

    # Means, and their ratio to the reference's.
    result: dict[str, Any] = {"status": "finished", "checkpoint": str(file.path), **settings}
    missing = [name for name in source.names for s in severities if not measured.has(name, s)]
    if missing:
        counts = {"done": measured.count, "missing": len(missing)}
        return {**result, "status": "interrupted", **counts, "file": str(measured.path)}
    rows = rows_of({name: measured.cells[name] for name in source.names}, severities)
    means = means_of(rows)
    result |= {"severities": severities, "clean": measured.clean, "corruptions": rows}
    result |= {"mean_corruption_error": means["error"], "mean": means}
    result |= {"temperature": temperature, "left_out": list(source.left_out)}
    if reference:
        result |= reference.ratios(rows, measured.clean["error"])
    result |= {**progress.total(), "file": str(output), "picture": str(output.with_suffix(".png"))}
    say_replaced(output)
    with atomic_write(output) as table:
        table.write((json.dumps(result) + "\n").encode())
    measured.remove()
    show(result, source.words)
    picture = output.with_suffix(".png")
    with write_errors(picture):
        draw_robustness(rows, measured.clean, severities, picture)
    ranks.log(f"{output}, {picture}")
    return result


# The classifier


def read_classifier(recipe: Recipe) -> Pretrained:
    """ValueError unless the file is one of our classifiers."""
    file = pretrained.read(recipe.model, trust=recipe.trust_checkpoint)
    if not file.head or not file.metadata.backbone:
        raise ValueError(
            f"{file.path} is no classifier of ours: give a run or checkpoint of finetune"
        )
    say_which(recipe.model, file)
    return file


def read_reference(recipe: Recipe, kind: str) -> Reference | None:
    path = recipe.corruption.reference
    return Reference(path, FILES[kind]) if path else None


def output_file(recipe: Recipe, file: Pretrained, name: str) -> Path:
    """Where the result goes. OSError where no folder can be made there."""
    assert file.path is not None
    folder = Path(recipe.machine.output_dir or file.path.parent)
    with write_errors(folder / name):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def build(file: Pretrained, images: ImageSet) -> nn.Module:
    check_channels(file, images.pixels.shape[1])
    model = Classifier(backbone_of(file, quiet=True), len(images.classes))
    model.load_heads(file.head, file.second_head)
    return model


# Measurements


def measure(
    classifier: Measured,
    source: Made | Published,
    clean: ImageSet,
    severities: list[int],
    measured: Measurements,
    interrupt: Interrupt,
) -> Progress:
    """The loop; it ends early where a signal asks for it."""
    progress = Progress(1 + len(source.names) * len(severities), measured.count, len(clean))
    if not measured.clean:
        measured.clean = classifier.numbers(clean)
        progress.step()
    for name in source.names:
        for severity in severities:
            if measured.has(name, severity):
                continue
            if interrupt.asked:
                return progress
            numbers = classifier.numbers(source.load(name, severity, clean))
            measured.add(name, severity, numbers)
            progress.step()
    progress.close()
    return progress


# What people see


def show(result: dict[str, Any], words: str) -> None:
    """The table."""
    severities, clean, means = result["severities"], result["clean"], result["mean"]
    calibrated = result["temperature"] is not None
    ranks.log(
        f"error in percent of {result['images']} test images of {result['dataset']}; corruptions {words}"
    )
    if calibrated:
        ranks.log(
            f"ECE and NLL are of the network's own probabilities, ECE/T of those that predict gives: temperature "
            f"{result['temperature']:.4g}, fitted on validation images"
        )
    heads = "".join(f"{severity:>8}" for severity in severities)
    last = f"{'ECE/T':>8}" if calibrated else ""
    ranks.log(f"{'severity':<18}{heads}{'mean':>8}{'ECE':>8}{'NLL':>8}{last}")

    def means_in(numbers: dict[str, Any], prefix: str = "") -> str:
        error, ece, nll = (numbers[f"{prefix}{name}"] for name in ("error", "ece", "nll"))
        last = f"{numbers[f'{prefix}calibrated_ece']:>8.2f}" if calibrated else ""
        return f"{error:>8.2f}{ece:>8.2f}{nll:>8.3f}{last}"

    space = " " * 8 * len(severities)
    ranks.log(f"{'clean':<18}{space}{means_in(clean)}")
    for name, row in result["corruptions"].items():
        errors = "".join(f"{error:>8.2f}" for error in row["error"])
        ranks.log(f"{name:<18}{errors}{means_in(row, 'mean_')}")
    ranks.log(f"{'mean':<18}{space}{means_in(means)}")
    if "mce" in result:
        relative = result["relative_mce"]
        shown = "none" if relative is None else f"{relative:.1f}"
        ranks.log(
            f"in percent of the errors of {result['reference']}: mCE {result['mce']:.1f}, relative mCE {shown}"
        )
