"""Which network: the settings of a backbone, a part of every recipe that builds one."""

from dataclasses import dataclass, fields
from typing import Literal

from .checks import AT_LEAST_1, POSITIVE, check_values
from .sizes import ImageSize, shortest

NEW_OPTIONS = dict.fromkeys(("stem", "pool", "attention_init", "standardise"))
"""Options that networks of older runs did not have: each left open."""


@dataclass(frozen=True)
class BackboneSettings:
    """The network."""

    arch: str | None = None
    """any of docs/models.md (vit, cct_7_3x1_32, ...) or timm:<name> (None: the checkpoint's, else vit)."""
    image_size: ImageSize | None = None
    """Side in pixels to which images are brought, or height and width (None: the checkpoint's, else the images')."""
    patch_size: int | None = None
    """Side of a patch in pixels (vit: image_size / 8)."""
    embed_dim: int | None = None
    """Width (vit: 192)."""
    num_layers: int | None = None
    """Blocks (vit: 9)."""
    num_heads: int | None = None
    """Attention heads (vit: 12)."""
    vit_mlp_ratio: float | None = None
    """Hidden width of the MLPs in multiples of the width (vit, swin, cait: 2)."""
    qkv_bias: bool | None = None
    """Biases in the query, key and value layers (vit, swin, cait: true)."""
    stem: Literal["patch", "conv"] | None = None
    """How vit turns pixels into tokens: one linear layer a patch, as published (patch), or three 3 x 3 convolutions."""
    pool: Literal["class", "mean"] | None = None
    """The features of vit: its class token, as published (class), or the mean of its patches (mean)."""
    attention_init: Literal["random", "mimetic"] | None = None
    """First values of vit's attention and positions: random, as published, or like those of trained ones (mimetic)."""
    standardise: bool | None = None
    """Bring each image to mean 0 and deviation 1 inside the network, so that brightness and contrast tell images
    apart no more (false)."""

    def __post_init__(self):
        names = ("image_size", "patch_size", "embed_dim", "num_layers", "num_heads")
        check_values(self, AT_LEAST_1, *names)
        check_values(self, POSITIVE, "vit_mlp_ratio")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", shortest(self.image_size))

    def options(self) -> dict:
        """Arguments of registry.backbone that flags state; what is left open is not among them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
