"""What `multicrop embed` takes of a network: its features, or the output of a block or stage, pooled or by place.

B images, T places of a feature map, D width.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multicrop.augment.evaluation import EvalTransform
from multicrop.config.embed import Embeddings
from multicrop.config.sizes import height_width
from multicrop.engine.fingerprint import weights_hash
from multicrop.supervised.backbone import Backbone

Take = Callable[[Tensor], Tensor]  # normalised images (B, C, S, S) -> (B, D) or (B, T, D)


def taking(backbone: nn.Module, wanted: Embeddings) -> tuple[Take, str]:
    """What to do with images, and in words what that gives. ValueError where the network has no such block or stage."""
    network = cast(Backbone, backbone)
    name = map_name(network, wanted)
    if name is None:
        return network, "features"

    def tokens(images: Tensor) -> Tensor:
        _, maps = network.forward_maps(images)
        return maps[name].flatten(2).transpose(1, 2)

    if wanted.tokens:
        return tokens, f"tokens of {name}"
    return lambda images: tokens(images).mean(1), f"mean over the tokens of {name}"


def map_name(network: Backbone, wanted: Embeddings) -> str | None:
    """Which feature map; None for the network's own features."""
    if wanted.block is None and wanted.stage is None and not wanted.tokens:
        return None
    blocks = list(getattr(network, "maps", ()))
    if not blocks:
        raise ValueError(
            "this network gives no feature maps: leave --block, --stage and --tokens out"
        )
    stages = getattr(network, "stages", None)
    # Of a network of timm every map is the end of a stage
    names = {"block": blocks, "stage": list(stages) if isinstance(stages, tuple) else blocks}
    for kind, of_kind in names.items():
        number = getattr(wanted, kind)
        if number is None:
            continue
        if number >= len(of_kind):
            raise ValueError(f"--{kind} {number}: this network has {kind}s 0 to {len(of_kind) - 1}")
        return of_kind[number]
    return names["stage"][-1]


class Embedding:
    """uint8 pixels -> float32 on the CPU, (B, D) or (B, T, D), as the network sees the images."""

    def __init__(
        self,
        backbone: nn.Module,
        transform: EvalTransform,
        wanted: Embeddings,
        channels: int,
        dtype: torch.dtype | None,
    ):
        self.transform, self.wanted, self.dtype = transform, wanted, dtype
        self.take, self.words = taking(backbone, wanted)
        self.device = next(backbone.parameters()).device
        self.images = 0  # seen by now
        black = torch.zeros(1, channels, *height_width(transform.size), dtype=torch.uint8)
        self.shape = tuple(self(black).shape[1:])
        self.images = 0
        self._weights = weights_hash(backbone)

    @property
    def identity(self) -> dict[str, Any]:
        """What the vectors follow from, beside the images."""
        return {
            "weights": self._weights,
            "takes": self.words,
            "normalize": self.wanted.normalize,
            "image_size": self.transform.size,
            "mean": list(self.transform.mean),
            "std": list(self.transform.std),
        }

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        images = self.transform(pixels.to(self.device))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            vectors = self.take(images)
        vectors = vectors.float()
        if self.wanted.normalize:
            vectors = F.normalize(vectors, dim=-1)
        self.images += len(pixels)
        return vectors.cpu()
