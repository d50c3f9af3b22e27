"""ViTs that look at an image in several ways and fuse them, early or late, with the names of the published code.

Konstantinidis et al. 2023 (IEEE Access, arXiv 2207.08569); code: github.com/iliasprc/Compact-Transformers, Apache-2.0.
All branches share the tokenizer. The image branch (img) is a ViT-Lite; the Grassmann one (gm) sees the tokens' LDS
descriptors through Grassmann attention, the Riemannian one (riem) the tokens through the gap of covariances. Late
fusion concatenates the branches' class tokens; early fusion joins tokens and descriptors before one ViT-Lite.

The two revisions of that code (_manifold_attention.py) are options, f2 is the default; --arch fusion:img_gm_vit_6_4_f1
names one.
"""

import re
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ._compact import Compact, SelfAttention, Transformer, initialise
from ._descriptor import Descriptor, exact_tokens
from ._manifold_attention import check_revision, maker
from ._maps import Map, to_map, to_tokens
from ._tokenizer import Tokenizer
from .compact import RELEASED, fit_positions, make_tokenizer, make_transformer, published, settle
from .manifold import fit_norms, rename, settle_descriptor

NAME = re.compile(
    r"(?P<branches>early_fusion__?|(?:(?:img|gm|riem)_)+)(?P<base>vit_.+?)(?:_(?P<revision>f1|f2))?"
)
EARLY = "early_fusion_"
LATE = ("img_gm", "img_riem", "gm_riem", "img_gm_riem")
KINDS = {"gm": "grassmann", "riem": "riemann"}
VARIANTS = {
    f"{branches}_{name}{end}": {
        "name": f"{branches}_{name}{end}",
        "image_size": published(name)["image_size"],
    }
    for branches in (EARLY, *LATE)
    for name in RELEASED
    for end in ("", "_sine")
    if name.startswith("vit")
}
PREFIXES = {  # the published names' beginnings and ours
    "img_classifier.": "branches.img.",
    "om_classifier.": "branches.gm.",
    "riem_classifier.": "branches.riem.",
    "classifier.": "transformer.",
    "project.0.": "project.",
    "img_gm_classifier.0.": "norm.",
    "late_fusion_classifier.0.": "norm.",
}


def parse(name: str) -> tuple[str, str, str | None]:
    """The branches ("early_fusion_" or one of LATE), compact.py's name and the revision that a name says."""
    match = NAME.fullmatch(name.lower().replace("-", "_"))
    branches = match["branches"].rstrip("_") if match else ""
    if match is None or branches not in ("early_fusion", *LATE):
        raise ValueError(
            f"no fusion is called {name!r}: early_fusion__, {'_, '.join(LATE)}_, then a ViT as in img_gm_vit_6_4, "
            "then perhaps _f1 or _f2"
        )
    return EARLY if branches == "early_fusion" else branches, match["base"], match["revision"]


def check(name: str | None) -> None:
    """ValueError unless fusion:<name> can be built."""
    published(parse(name or "img_gm_riem_vit_6_4")[1])


def build(
    image_size: int,
    *,
    name: str = "img_gm_riem_vit_6_4",
    revision: str | None = None,
    lds_order: int | None = None,
    lds_terms: int | None = None,
    published_signs: bool = False,
    patch_size: int | None = None,
    in_channels: int = 3,
    embed_dim: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    vit_mlp_ratio: float | None = None,
    positional_embedding: str | None = None,
    pre_norm: bool = False,
    drop_rate: float = 0.0,
    attn_drop_rate: float = 0.1,
    drop_path_rate: float = 0.1,
) -> nn.Module:
    """The network that `name` stands for with what is not None in its place, for square images of `image_size` px.

    lds_order, lds_terms: the descriptor's, 4 and 4, or 8 and 3 in img_gm_* and img_gm_riem_* of revision f2.
    published_signs: of its singular vectors (_descriptor.py), for published weights.
    """
    branches, base, said = parse(name)
    revision = revision or said or "f2"
    check_revision(revision)
    sizes = {
        "embed_dim": embed_dim,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "vit_mlp_ratio": vit_mlp_ratio,
    }
    options = settle(
        base, patch_size=patch_size, positional_embedding=positional_embedding, **sizes
    )
    tokenizer = make_tokenizer(base, image_size, in_channels, options)
    side, width, heads = tokenizer.side(image_size), options["embed_dim"], options["num_heads"]
    drops: dict[str, Any] = {"attn_drop_rate": attn_drop_rate, "drop_rate": drop_rate}
    rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate, "pre_norm": pre_norm}

    def branch(kind: str) -> Transformer:
        if kind in KINDS:
            attention = maker(
                KINDS[kind], revision, None, True, width, heads, side=side, prefix=1, **drops
            )
        else:
            attention = partial(SelfAttention, width, heads, **drops)
        return make_transformer(side, options, attention, **rates)

    newer = revision == "f2" and branches in ("img_gm", "img_gm_riem")
    order, terms = settle_descriptor(width, lds_order, lds_terms, newer)
    describe = partial(Descriptor, width, order, terms, published_signs=published_signs)
    if branches == EARLY:
        return EarlyFusion(tokenizer, describe(norm=False), branch("img"))
    kinds = branches.split("_")
    descriptor = describe() if "gm" in kinds else None
    norm = branches in ("img_gm", "img_gm_riem") and not newer
    return LateFusion(tokenizer, descriptor, {kind: branch(kind) for kind in kinds}, norm)


class EarlyFusion(Compact):
    """Tokens and their descriptors side by side, projected to the tokens' width: images (B, C, h, w) -> (B, dim)."""

    def __init__(
        self, tokenizer: Tokenizer, descriptor: Descriptor, transformer: Transformer
    ) -> None:
        super().__init__(tokenizer, transformer)
        self.descriptor, self.project = descriptor, nn.Linear(2 * self.dim, self.dim)
        self.descriptor.apply(initialise)
        initialise(self.project)

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x, grid = exact_tokens(self.tokenizer, x)
        return self.project(torch.cat([x, self.descriptor(x)], dim=-1)), grid


class LateFusion(nn.Module):
    """Transformers over one tokenizer, their features side by side: images (B, C, h, w) -> (B, dim)."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        descriptor: Descriptor | None,
        branches: dict[str, Transformer],
        norm: bool,
    ) -> None:
        super().__init__()
        self.tokenizer, self.descriptor, self.branches = (
            tokenizer,
            descriptor,
            nn.ModuleDict(branches),
        )
        if descriptor is not None:
            descriptor.apply(initialise)
        widths = [branch.dim for branch in branches.values()]
        layers = min(len(branch.blocks) for branch in branches.values())
        self.dim = sum(widths)
        self.norm = nn.LayerNorm(self.dim) if norm else nn.Identity()
        self.maps = {f"blocks.{index}": Map(self.dim, tokenizer.stride) for index in range(layers)}
        self.stages = tuple(self.maps)[-1:]

    def forward(self, x: Tensor) -> Tensor:
        tokens, grid = self.tokens(x)
        features = [branch(tokens[kind], grid) for kind, branch in self.branches.items()]
        return self.norm(torch.cat(features, dim=-1))

    def forward_maps(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features of `forward` and, for each depth, the branches' maps side by side (B, dim, h, w)."""
        tokens, grid = self.tokens(x)
        branches: Any = self.branches
        results = [branch.forward_blocks(tokens[kind], grid) for kind, branch in branches.items()]
        features = self.norm(torch.cat([result[0] for result in results], dim=-1))
        depths = zip(*(result[1] for result in results), strict=True)
        maps = [to_map(torch.cat(outputs, dim=-1), grid, prefix=1) for outputs in depths]
        return features, dict(zip(self.maps, maps, strict=True))

    def tokens(self, x: Tensor) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """Images (B, C, h, w) -> each branch's tokens (B, h * w, D) and their grid."""
        if self.descriptor is None:
            x = self.tokenizer(x)
            return dict.fromkeys(self.branches, to_tokens(x)), (x.shape[-2], x.shape[-1])
        x, grid = exact_tokens(self.tokenizer, x)
        return dict.fromkeys(self.branches, x) | {"gm": self.descriptor(x)}, grid


def adapt(state: dict[str, Tensor], model: EarlyFusion | LateFusion) -> dict[str, Tensor]:
    """A backbone's state dict, the published code's or ours at another image size, under this model's names."""
    late = isinstance(model, LateFusion)
    layers = {
        "om_layer.0.": "descriptor.norm.",
        f"om_layer.{2 if late else 1}.": "descriptor.proj.",
    }
    state = fit_norms(rename(state, PREFIXES | layers), model)
    transformers: dict[str, Any] = {}
    if isinstance(model, LateFusion):
        for kind, branch in model.branches.items():
            transformers[f"branches.{kind}"] = branch
    else:
        transformers["transformer"] = model.transformer
    for name, transformer in transformers.items():
        state = fit_positions(state, f"{name}.positional_emb", transformer)
    return state
