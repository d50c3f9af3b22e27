"""ResNet: He et al. 2016, arXiv 1512.03385: three stages for 32 px images (section 4.2), four for ImageNet (table 1).

Blocks and names are torchvision's; its network has no layout of three stages and no maps.
"""

import re
from typing import Any

import torch.nn as nn
from torch import Tensor
from torchvision.models.resnet import BasicBlock, Bottleneck

from ._maps import Map
from ._sizes import Size, check_images

RECTANGLES = True  # it is built for images of any height and width
IMAGENET = {  # depth: block, and how many of them in each stage
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}

VARIANTS = {f"resnet{depth}": {"image_size": 32, "depth": depth} for depth in (8, 20, 56)} | {
    f"resnet{depth}": {"image_size": 224, "depth": depth, "layout": "imagenet"}
    for depth in IMAGENET
}
VARIANTS["resnet50_stride_1x1"] = {**VARIANTS["resnet50"], "stride_1x1": True}


def build(
    image_size: Size,
    *,
    in_channels: int = 3,
    depth: int = 56,
    layout: str = "cifar",
    stride_1x1: bool | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> "ResNet":
    """A ResNet for images of any size; `image_size` changes nothing in it.

    layout "cifar": 16, 32 and 64 channels at strides 1, 2 and 4, depth 6n + 2 for n blocks in each stage. layout
    "imagenet": a stem of stride 4 and four stages, depth 18, 34 or 50. stride_1x1: a bottleneck's stride is in its
    first 1 x 1 convolution, the locality-guidance code's default, and not in its 3 x 3, as in torchvision and where
    left open. A ResNet has neither dropout nor stochastic depth: the two rates have no effect. ValueError on a depth
    that the layout does not have.
    """
    if stride_1x1 and (layout, depth) != ("imagenet", 50):
        raise ValueError("stride_1x1 is for bottlenecks: those of layout imagenet at depth 50")
    if layout == "cifar":
        if depth < 8 or depth % 6 != 2:
            near = max(8, (depth - 2) // 6 * 6 + 2)
            raise ValueError(
                f"depth {depth} is not 6n + 2 with n at least 1; the nearest are {near} and {near + 6}"
            )
        return ResNet(in_channels, BasicBlock, ((depth - 2) // 6,) * 3, width=16)
    if layout == "imagenet":
        if depth not in IMAGENET:
            raise ValueError(
                f"depth {depth} of layout imagenet is not one of {', '.join(map(str, IMAGENET))}"
            )
        return ResNet(in_channels, *IMAGENET[depth], width=64, large=True, stride_1x1=stride_1x1)
    raise ValueError(f"layout {layout!r} is neither 'cifar' nor 'imagenet'")


class ResNet(nn.Module):
    """Images (B, C, h, w) of any size -> the mean of the last stage's map (B, dim).

    `large` adds to the stem a stride of 2 in a 7 x 7 convolution and a maximum over 3 x 3 at stride 2.
    """

    def __init__(
        self,
        in_channels: int,
        block: Any,  # torchvision's block class, which has an expansion
        depths: tuple[int, ...],
        width: int,
        large: bool = False,
        stride_1x1: bool | None = None,
    ) -> None:
        super().__init__()
        self.stride_1x1 = stride_1x1
        window, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(in_channels, width, window, stride, padding=window // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        self.maps, self.in_channels, self.dim = {}, in_channels, width
        scale = 4 if large else 1
        for index, depth in enumerate(depths):
            stage = _stage(block, self.dim, width << index, depth, stride=2 if index else 1)
            if stride_1x1:
                first: Any = stage[0]
                first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
            self.add_module(f"layer{index + 1}", stage)
            self.dim = (width << index) * block.expansion
            self.maps[f"s{index + 1}"] = Map(self.dim, scale << index)
        self.stages = tuple(self.maps)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_maps(x)[0]

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and each stage's output after its last ReLU, as a map (B, width, h, w)."""
        check_images(x, self.in_channels, 1)
        x, maps = self.maxpool(self.relu(self.bn1(self.conv1(x)))), {}
        for index, name in enumerate(self.maps):
            x = self.get_submodule(f"layer{index + 1}")(x)
            maps[name] = x
        return x.mean(dim=(2, 3)), maps


def _stage(block: Any, before: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """`depth` blocks; the first has the stride, and a 1 x 1 convolution in its shortcut where the shape changes."""
    out, shortcut = width * block.expansion, None
    if stride != 1 or before != out:
        shortcut = nn.Sequential(nn.Conv2d(before, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    return nn.Sequential(
        block(before, width, stride, shortcut), *(block(out, width) for _ in range(depth - 1))
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def adapt(state: dict[str, Tensor], model: ResNet) -> dict[str, Tensor]:
    """The names of the locality-guidance code (`s1.b1.f.a.`, `.proj.`), torchvision's or ours, which are the same.

    ValueError for a ResNet-50 of that code unless the network says where its strides are: a file does not.
    """
    if model.stride_1x1 is None and any(re.match(r"s\d\.b\d+\.f\.c\.", key) for key in state):
        raise ValueError(
            "its strides are in other convolutions than torchvision's unless it was trained with STRIDE_1X1 False: "
            "take --arch resnet50_stride_1x1 (or, if it was, registry.backbone('resnet50', stride_1x1=False) in Python)"
        )
    return {_rename(key): value for key, value in state.items()}


LAYERS = {
    "proj": "downsample.0",
    "bn": "downsample.1",
    "f.a": "conv1",
    "f.b": "conv2",
    "f.c": "conv3",
}
LAYERS |= {"f.a_bn": "bn1", "f.b_bn": "bn2", "f.c_bn": "bn3"}


def _rename(key: str) -> str:
    if key.startswith("stem."):
        return key.replace("stem.conv.", "conv1.").replace("stem.bn.", "bn1.")
    part = re.match(r"s(\d)\.b(\d+)\.(proj|bn|f\.[abc](?:_bn)?)\.", key)
    if part is None:
        return key
    return f"layer{part[1]}.{int(part[2]) - 1}.{LAYERS[part[3]]}.{key[part.end() :]}"
