"""Embed images: write the features of each under a trained network, with the names of the files, labelled or not.

    multicrop embed runs/ssl photos                                # features.npz: features, files
    multicrop embed runs/ft photos --block 5 --tokens --output tokens.safetensors

Checkpoint -> images in their order, decoded by processes meanwhile -> backbone -> vectors -> file. An interrupted
command goes on where it was. Every flag: config/embed.py.
"""

import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from multicrop.commands._embed_files import WRITERS, Content
from multicrop.commands._embedding import Embedding, taking
from multicrop.commands._image_stream import ImageStream
from multicrop.commands._inference import open_images, read_network, transform_for, watched
from multicrop.commands._result_parts import (
    Part,
    all_parts,
    check_file,
    done_by_all,
    names_hash,
    own_part,
    say_replaced,
)
from multicrop.config.embed import Recipe
from multicrop.datasets._table import pyarrow
from multicrop.engine import ranks
from multicrop.engine.files import atomic_write
from multicrop.engine.interrupt import Interrupt
from multicrop.engine.precision import autocast_dtype


def run(recipe: Recipe) -> dict[str, Any]:
    device = ranks.start(recipe.machine.device)
    check_file(recipe.embeddings.output, recipe.data.paths(recipe.model, recipe.images))
    if recipe.embeddings.file_format == "parquet":
        pyarrow()

    # The network.
    network = read_network(recipe.model, recipe.weights, recipe.backbone)
    backbone = network.backbone.to(device)
    taking(backbone, recipe.embeddings)  # what it has not is said before images are looked for

    # Vectors of the images, as they come.
    opened = open_images(recipe.images, recipe.data, network, crops=network.sees_crops)
    with Interrupt() as interrupt, opened as stream:
        begun = time.perf_counter()
        transform = transform_for(network, stream)
        dtype = autocast_dtype(recipe.machine.precision, device)
        embed = Embedding(backbone, transform, recipe.embeddings, network.channels, dtype)
        part = fill(recipe, stream, embed, interrupt)
        result = {
            "status": "interrupted",
            "checkpoint": str(network.file.path),
            "images": len(stream),
            "shape": list(embed.shape),
            "takes": embed.words,
            "normalize": recipe.embeddings.normalize,
            "output": recipe.embeddings.output,
        }
        if not ranks.all_true(part.complete):
            return {**result, "done": done_by_all(part.done)}
        unreadable = ranks.broadcast_object(lambda: join(recipe, stream, embed, result))
        seconds = time.perf_counter() - begun
    shape = " x ".join(map(str, embed.shape))
    ranks.log(
        f"{recipe.embeddings.output}: {len(stream)} images, {shape} each ({embed.words}), {unreadable} unreadable"
    )
    speed = round(embed.images / max(seconds, 1e-9), 1)
    counts = {"unreadable": unreadable, "images_per_second": speed, "seconds": round(seconds, 1)}
    return {**result, "status": "finished", **counts}


def fill(recipe: Recipe, stream: ImageStream, embed: Embedding, interrupt: Interrupt) -> Part:
    """The vectors of this rank's images, until there are all or a signal asks for an end."""
    identity = {**embed.identity, "precision": recipe.machine.precision}
    identity["names"] = names_hash(stream.names)
    width = int(np.prod(embed.shape))
    part = own_part(Path(recipe.embeddings.output), len(stream), width, identity)
    batch_size = recipe.machine.batch_size
    for batch in watched(stream, part.start + part.done, part.stop, batch_size, interrupt):
        vectors = embed(batch.pixels).flatten(1).numpy()
        vectors[list(batch.errors)] = np.nan
        part.append([batch.errors.get(row) for row in range(len(vectors))], vectors)
    part.close()
    return part


def join(recipe: Recipe, stream: ImageStream, embed: Embedding, result: dict[str, Any]) -> int:
    """Write the file from the parts of all ranks, on rank 0; how many images are not readable."""
    output = Path(recipe.embeddings.output)
    parts = all_parts(output, len(stream), int(np.prod(embed.shape)))
    rows = chain.from_iterable(part.rows() for part in parts)
    content = Content(
        names=stream.names,
        errors={index: reason for index, reason in enumerate(rows) if reason is not None},
        shape=embed.shape,
        labels=None if stream.labels is None else stream.labels.numpy(),
        classes=stream.classes,
        about={name: result[name] for name in ("checkpoint", "takes", "normalize")},
    )
    vectors = chain.from_iterable(part.vectors() for part in parts)
    say_replaced(output)
    with atomic_write(output) as file:
        WRITERS[recipe.embeddings.file_format](file, content, vectors)
    for part in parts:
        part.remove()
    return len(content.errors)
