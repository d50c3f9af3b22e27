"""A network as one graph of operations: what it does to images first, then the network, by torch.export."""

import torch
import torch.nn as nn
from torch import Tensor
from torch.export import Dim, ExportedProgram

from multicrop.augment.device import channels
from multicrop.augment.evaluation import middle
from multicrop.augment.resample import fit_images
from multicrop.commands._export_network import Exported
from multicrop.config.export import GraphSettings
from multicrop.config.sizes import height_width
from multicrop.probes.temperature import probabilities

EXAMPLE = 2  # images; a graph traced with one would be for one
EXAMPLE_SIDES = (1.5, 2)  # of images of any size, in multiples of the network's
DTYPES = {"float": torch.float32, "uint8": torch.uint8}


class Graph(nn.Module):
    """Images as --input, --layout and --resize have them -> what --returns says, float32 (B, classes) or (B, D).

    Pixels of other sizes are resized as `EvalTransform` does it, but for its rounding to whole levels: runtimes differ
    in the last bit before it, and so in a whole level after it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, exported: Exported, settings: GraphSettings) -> None:
        super().__init__()
        self.network, self.transform, self.settings = exported.network, exported.transform, settings
        self.softmax = exported.returns == "probabilities"
        self.temperature = exported.temperature if self.softmax else None
        device = next(exported.network.parameters()).device
        self.register_buffer("mean", channels(self.transform.mean, device))
        self.register_buffer("std", channels(self.transform.std, device))

    def forward(self, images: Tensor) -> Tensor:
        # Stays in the program, which does not compare types itself: pixels that are floats would be divided by 255 too.
        torch.ops.aten._assert_tensor_metadata(images, dtype=DTYPES[self.settings.input])
        if self.settings.input == "uint8":
            images = self.normalised(images)
        output = self.network(images)
        return probabilities(output, self.temperature) if self.softmax else output

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 images -> float32 (B, C, S, S) as the network takes them."""
        nhwc = self.settings.layout == "nhwc"
        if self.settings.resize:
            # Reading a pixel is an error of every runtime where there is none: resized, such images would be black.
            rows = 1 if nhwc else 2
            first = images.select(rows, 0).select(rows, 0).float()  # (B, C)
        if nhwc:
            images = images.permute(0, 3, 1, 2)
        levels = images.float()
        if self.settings.resize:
            levels = self.resized(levels) + 0 * first[:, :, None, None]
        return (levels / 255 - self.mean) / self.std

    def resized(self, levels: Tensor) -> Tensor:
        """Levels 0..255 of images of any height and width -> (B, C, S, S)."""
        transform = self.transform
        return middle(fit_images(levels, transform.whole, transform.fit), transform.size)


def input_shape(exported: Exported, settings: GraphSettings) -> list[str | int]:
    """The shape of the graph's images, with names where any number is taken."""
    rows: str | int
    columns: str | int
    rows, columns = ("height", "width") if settings.resize else height_width(exported.size)
    if settings.layout == "nhwc":
        return ["batch", rows, columns, exported.channels]
    return ["batch", exported.channels, rows, columns]


def example(exported: Exported, settings: GraphSettings, batch: int, seed: int = 0) -> Tensor:
    """Random images as the graph takes them; uint8 over all levels, floats of spread 1."""
    height, width = height_width(exported.size)
    if settings.resize:
        height, width = int(height * EXAMPLE_SIDES[0]), int(width * EXAMPLE_SIDES[1])
    sides = {"batch": batch, "height": height, "width": width}
    shape = [sides.get(str(side), side) for side in input_shape(exported, settings)]
    random = torch.Generator().manual_seed(seed)
    if settings.input == "uint8":
        return torch.randint(256, shape, generator=random, dtype=torch.uint8)  # type: ignore[arg-type]
    return torch.randn(shape, generator=random)  # type: ignore[arg-type]


def dynamic_axes(exported: Exported, settings: GraphSettings) -> dict[int, str]:
    """The axes along which any number is taken, by what they are called."""
    axes = enumerate(input_shape(exported, settings))
    return {axis: side for axis, side in axes if isinstance(side, str)}


@torch.no_grad()
def trace(graph: Graph, exported: Exported) -> ExportedProgram:
    """The graph as a program for any number of images."""
    axes = dynamic_axes(exported, graph.settings)
    any_number = {axis: Dim(name) for axis, name in axes.items()}
    images = example(exported, graph.settings, EXAMPLE)
    return torch.export.export(graph, (images,), dynamic_shapes=(any_number,))
