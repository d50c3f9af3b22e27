"""Every setting of `multicrop export`."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from .checks import NOT_NEGATIVE, check_values, require

Format = Literal["onnx", "torch", "timm", "hf"]


@dataclass(frozen=True)
class GraphSettings:
    """The graph of --to onnx and --to torch."""

    input: Literal["float", "uint8"] = "float"
    """Images that it takes: float32, normalised by the network's mean and std (float), or pixels of 0 to 255, which it
    normalises itself (uint8)."""
    layout: Literal["nchw", "nhwc"] = "nchw"
    """Axes of its images: channels, rows, columns (nchw), or rows, columns, channels as image libraries have them
    (nhwc, with --input uint8)."""
    resize: bool = False
    """Take images of any height and width and bring them to the network's size (with --input uint8)."""
    returns: Literal["auto", "logits", "probabilities", "features"] = "auto"
    """What it gives: logits or their softmax of a finetuned network, features of any (auto: logits where there is a
    classifier, else features). --to timm and --to hf know no probabilities."""

    def __post_init__(self):
        words = "is for pixels: add --input uint8"
        require(self.layout == "nchw" or self.input == "uint8", "layout", self.layout, words)
        require(not self.resize or self.input == "uint8", "resize", "true", words)


@dataclass(frozen=True)
class CheckSettings:
    """The check of what was written against the network."""

    images: int = 16
    """Images of the data set that the check takes beside random ones; 0 for none."""
    datapath: str | None = None
    """Folder of the data set (None: where the run found it)."""
    dataset: str | None = None
    """The data set whose images the check takes (None: the run's)."""

    def __post_init__(self):
        check_values(self, NOT_NEGATIVE, "images")


@dataclass(frozen=True)
class CardSettings:
    """The model card of --to hf."""

    name: str | None = None
    """The network's name (None: that of the run folder)."""
    license: str | None = None
    """Licence of the weights, as the Hub spells it, say cc-by-4.0 (None: the card says that none is stated)."""


@dataclass(frozen=True)
class Recipe:
    """Write a trained network as other programs read it, and check what was written."""

    ALIASES: ClassVar = {"out": "output"}

    model: Annotated[str, tyro.conf.Positional]
    """Run folder or checkpoint file, of either stage."""
    to: Format
    """onnx: a graph for ONNX Runtime and others. torch: a torch.export program. timm: weights that timm loads.
    hf: the same with a model card, a folder that can be pushed to the Hugging Face Hub."""
    output: str | None = None
    """The file (onnx, torch) or folder (timm, hf) (None: model.onnx, model.pt2, timm or hf in the run folder)."""
    checkpoint_key: str = "teacher"
    """Which network of a checkpoint: teacher or student of stage one; average takes the averaged weights of stage
    two."""
    calibrated: bool = True
    """Divide the logits by the temperature that was fitted on the validation images, where the checkpoint has one:
    within the graph of --returns probabilities; elsewhere the temperature is written down beside the logits."""
    graph: GraphSettings = GraphSettings()
    check: CheckSettings = CheckSettings()
    card: CardSettings = CardSettings()

    def __post_init__(self):
        if self.to in ("timm", "hf"):
            self._check_no_graph()
        else:
            for name in ("name", "license"):
                value = getattr(self.card, name)
                require(value is None, name, value, "is for the model card of --to hf")

    def _check_no_graph(self) -> None:
        """ValueError where timm's network would not do what is asked of a graph."""
        words = f"is for --to onnx and --to torch: {self.to} holds weights and no graph"
        graph = self.graph
        for name, default in (("input", "float"), ("layout", "nchw")):
            value = getattr(graph, name)
            require(value == default, name, value, words)
        require(not graph.resize, "resize", "true", words)
        require(graph.returns != "probabilities", "returns", graph.returns, words)
