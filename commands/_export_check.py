"""Whether what was written gives what the network gives: on random images and on some of the data set's."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from multicrop.commands._data import resolve_source_size
from multicrop.commands._export_graph import Graph, example
from multicrop.commands._export_network import Exported
from multicrop.commands._origin import data_origin
from multicrop.config.data import DataSettings
from multicrop.config.export import CheckSettings
from multicrop.config.sizes import ImageSize
from multicrop.datasets._folders import image_set
from multicrop.datasets._images import LoadOptions
from multicrop.engine import ranks
from multicrop.registry import source

TOLERANCE = 1e-4  # of the outputs, relative to the largest where that is above 1
BATCHES = (1, 2, 5)

Run = Callable[[Tensor], Tensor]


def batches(exported: Exported, graph: Graph, settings: CheckSettings) -> dict[str, list[Tensor]]:
    """Random and real images as the graph takes them, in batches; "real" is left out where they cannot be read."""
    random = [example(exported, graph.settings, count, seed=count) for count in BATCHES]
    inputs = {"random": random}
    pixels = real_images(exported, settings, graph.settings.resize)
    if pixels is not None:
        inputs["real"] = [as_input(pixels, exported, graph)]
    return inputs


def as_input(pixels: Tensor, exported: Exported, graph: Graph) -> Tensor:
    """uint8 images (B, C, H, W) as the graph takes them."""
    settings, transform = graph.settings, exported.transform
    if settings.input == "float":
        return transform(pixels)
    if not settings.resize:
        pixels = transform.resize(pixels)
    if settings.layout == "nhwc":
        pixels = pixels.permute(0, 2, 3, 1)
    return pixels.contiguous()


@torch.no_grad()
def differences(run: Run, network: Run, inputs: dict[str, list[Tensor]]) -> dict[str, float]:
    """The largest difference of two networks' outputs by kind of images, relative to the largest output above 1.

    FloatingPointError where one is larger than TOLERANCE or is no number.
    """
    largest = {}
    for kind, images in inputs.items():
        found = [_difference(run(batch), network(batch)) for batch in images]
        largest[kind] = max(found)
        if not all(value <= TOLERANCE for value in found):  # nor where one is no number
            raise FloatingPointError(
                f"what was written differs from the network by {largest[kind]:.2g} on {kind} images, more than "
                f"{TOLERANCE:g}: nothing is kept. Is a weight not finite?"
            )
    return largest


def _difference(output: Tensor, expected: Tensor) -> float:
    scale = max(1.0, expected.abs().max().item())
    return (output - expected).abs().max().item() / scale


def real_images(exported: Exported, settings: CheckSettings, resize: bool) -> Tensor | None:
    """Some of the test images, or of all where there are no labels, uint8 (B, C, S, S).

    They are twice as large as the network's where the graph resizes them. None, and a line that says why, where the
    run's data set cannot be read any more; FileNotFoundError or ValueError where it is one that the flags name.
    """
    if not settings.images:
        return None
    data = DataSettings(dataset=settings.dataset, datapath=settings.datapath)
    origin = data_origin(data, exported.metadata)
    stated = None if resize else origin.source_size
    size = resolve_source_size(stated, exported.size, crops=resize)
    try:
        pixels = some_images(origin.dataset, origin.datapath, settings.images, size)
    except (OSError, ValueError) as error:
        if settings.dataset or settings.datapath:
            raise
        ranks.log(
            f"checked on random images alone, for the data set cannot be read ({error}); --datapath says where it is"
        )
        return None
    channels = pixels.shape[1]
    if channels != exported.channels:
        raise ValueError(
            f"--dataset {origin.dataset}: its images have {channels} channels, the network's {exported.channels}"
        )
    return pixels


def some_images(dataset: str, datapath: str, count: int, size: ImageSize) -> Tensor:
    """uint8 images (B, C, S, S), spread over a split. Image files are decoded for these alone."""
    data_set = source(dataset)
    split = "test" if data_set.labelled else "train"
    listing = data_set.listing(datapath, split)
    options = LoadOptions(source_size=size, stream=True, workers=1)
    if listing is None:
        pixels = data_set.load(datapath, split, options).pixels
    else:
        names = [listing.names[index] for index in spread(len(listing.names), count)]
        pixels = image_set(replace(listing, names=names, labels=None), options).pixels
    return pixels[torch.tensor(spread(len(pixels), count))]


def spread(total: int, count: int) -> list[int]:
    """At most `count` indices below `total`, evenly spread."""
    return torch.linspace(0, total - 1, min(count, total)).long().tolist()
