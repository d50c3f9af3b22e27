"""Predict the classes of images, which need no labels, by a finetuned network; a row for each image.

    multicrop predict runs/ft photos                             # predictions.csv: file, class, probability
    multicrop predict runs/ft 'a/*.jpg' b.zip --topk 3 --tta --output rows.parquet

Checkpoint -> images in their order, decoded by processes meanwhile -> logits / temperature -> probabilities -> rows. An
interrupted command goes on where it was. Every flag: config/predict.py.
"""

import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

from multicrop.commands._image_stream import ImageStream
from multicrop.commands._inference import open_images, read_network, transform_for, watched
from multicrop.commands._predict_rows import UNKNOWN, WRITERS, RowMaker
from multicrop.commands._prediction import Prediction, build, class_names, read_temperature
from multicrop.commands._result_parts import (
    all_parts,
    check_file,
    done_by_all,
    names_hash,
    own_part,
    say_replaced,
)
from multicrop.config.predict import Recipe
from multicrop.datasets._table import pyarrow
from multicrop.engine import ranks
from multicrop.engine.files import atomic_write
from multicrop.engine.interrupt import Interrupt
from multicrop.engine.precision import autocast_dtype

STDOUT = "-"


def run(recipe: Recipe) -> dict[str, Any]:
    device = ranks.start(recipe.machine.device)
    check_output(recipe)

    # The classifier.
    network = read_network(recipe.model, recipe.weights, recipe.backbone)
    classifier = build(network).to(device)
    classes = class_names(network)
    key, calibrated = recipe.weights.checkpoint_key, recipe.predictions.calibrated
    temperature = read_temperature(network.file, key, calibrated)
    topk = min(recipe.predictions.topk, len(classes))
    if topk < recipe.predictions.topk:
        ranks.log(f"--topk {recipe.predictions.topk}: all {topk} classes that there are")
    rows = RowMaker(classes, recipe.predictions.unknown_below)
    if rows.unknown_below is not None and UNKNOWN in classes:
        ranks.log(f"warning: {UNKNOWN} is also a class of this network")

    # Rows of the images, as they come.
    opened = open_images(recipe.images, recipe.data, network, crops=False)
    with Interrupt() as interrupt, opened as stream:
        begun = time.perf_counter()
        predict = Prediction(
            classifier,
            transform_for(network, stream),
            temperature or 1.0,
            topk,
            recipe.predictions.tta,
            autocast_dtype(recipe.machine.precision, device),
        )
        write = to_stdout if recipe.predictions.output == STDOUT else to_file
        complete, done = write(recipe, stream, predict, rows, interrupt)
        seconds = time.perf_counter() - begun

    result = {
        "status": "finished" if complete else "interrupted",
        "checkpoint": str(network.file.path),
        "images": len(stream),
        "temperature": temperature,
        "tta": recipe.predictions.tta,
        "output": recipe.predictions.output,
    }
    if not complete:
        return {**result, "done": done}
    counts = ", ".join(f"{count} {name}" for name, count in rows.counts.items())
    ranks.log(f"{recipe.predictions.output}: {len(stream)} images, {counts}")
    if rows.counts["unreadable"] == len(stream):
        ranks.log("warning: none of these images could be read: each row has the reason")
    speed = round(predict.images / max(seconds, 1e-9), 1)
    return {**result, **rows.counts, "images_per_second": speed, "seconds": round(seconds, 1)}


def check_output(recipe: Recipe) -> None:
    """ValueError where what is asked for cannot be written, before anything is read."""
    if recipe.predictions.file_format == "parquet":
        pyarrow()
    if recipe.predictions.output != STDOUT:
        check_file(recipe.predictions.output, recipe.data.paths(recipe.model, recipe.images))
    elif ranks.world_size() > 1:
        raise ValueError("--output -: several processes write a file: give one")


def to_stdout(
    recipe: Recipe, stream: ImageStream, predict: Prediction, rows: RowMaker, interrupt: Interrupt
) -> tuple[bool, int]:
    """Rows on standard output; whether they are all, and of how many images."""
    out = sys.stdout.buffer
    writer = WRITERS[recipe.predictions.file_format](out, predict.topk)
    batches = watched(stream, 0, len(stream), recipe.machine.batch_size, interrupt)
    for batch in batches:
        stop = batch.start + len(batch.pixels)
        files = (stream.names[index] for index in range(batch.start, stop))
        writer.write(rows.rows(files, predict(batch)))
        out.flush()
    writer.close()
    return predict.images == len(stream), predict.images


def to_file(
    recipe: Recipe, stream: ImageStream, predict: Prediction, rows: RowMaker, interrupt: Interrupt
) -> tuple[bool, int]:
    """Rows into this rank's part; once all are there, rank 0 writes the file. Whether they are, and how many."""
    output = Path(recipe.predictions.output)
    settings = {**predict.identity, "precision": recipe.machine.precision}
    identity = {**settings, "names": names_hash(stream.names)}
    part = own_part(output, len(stream), 0, identity)
    batch_size = recipe.machine.batch_size
    for batch in watched(stream, part.start + part.done, part.stop, batch_size, interrupt):
        part.append(predict(batch))
    part.close()
    done = done_by_all(part.done)
    if done < len(stream):
        return False, done

    def join() -> dict[str, int]:
        parts = all_parts(output, len(stream))
        say_replaced(output)
        with atomic_write(output) as file:
            writer = WRITERS[recipe.predictions.file_format](file, predict.topk)
            stored = chain.from_iterable(part.rows() for part in parts)
            writer.write(rows.rows(stream.names, stored))
            writer.close()
        for part in parts:
            part.remove()
        return rows.counts

    rows.counts = ranks.broadcast_object(join)
    return True, done
