"""Which network: the settings of a backbone, a part of every recipe that builds one."""

from dataclasses import dataclass, fields

from .checks import AT_LEAST_1, POSITIVE, check_values


@dataclass(frozen=True)
class BackboneSettings:
    """The network."""

    arch: str | None = None
    """any of docs/models.md (vit, cct_7_3x1_32, ...) or timm:<name> (None: the checkpoint's, else vit)."""
    image_size: int | None = None
    """Side in pixels to which images are brought (None: the checkpoint's, else the images' own)."""
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

    def __post_init__(self):
        names = ("image_size", "patch_size", "embed_dim", "num_layers", "num_heads")
        check_values(self, AT_LEAST_1, *names)
        check_values(self, POSITIVE, "vit_mlp_ratio")

    def options(self) -> dict:
        """Arguments of registry.backbone that flags state; what is left open is not among them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
