"""ViT, CVT and CCT with attention on manifolds, with the names of the published code.

Konstantinidis et al. 2023 (IEEE Access, arXiv 2207.08569); code: github.com/iliasprc/Compact-Transformers, Apache-2.0.
Tokenizer, positions, layers and pooling are those of compact.py. `manifold_*` fuse several maps (attention_type),
`riemmanian_*` have the gap of covariances alone, `grassmanian_*` take the tokens' LDS descriptors as tokens and have
Grassmann attention alone. The two revisions of that code (_manifold_attention.py) are options, f2 is the default.

A name is a kind and a name of compact.py; revision and attention type may follow it: --arch manifold_cvt_6_4_32, and
--arch manifold:manifold_cvt_6_4_f1_riem for what the code's own training command built under that name.

The descriptors and Grassmann maps of `grassmanian_*`, without a softmax, have steep gradients, steepest where a head is
about as wide as there are tokens (norms of 1e3 to 1e4 with random weights, also as published): clip them.
"""

import re
from typing import Any

import torch.nn as nn
from torch import Tensor

from ._compact import Compact, Transformer, initialise
from ._descriptor import Descriptor, exact_tokens
from ._manifold_attention import maker
from ._map_norm import MapNorm, fit_norm
from ._tokenizer import Tokenizer
from .compact import (
    CLASSES,
    ONLY_LEARNED,
    RELEASED,
    fit_positions,
    make_tokenizer,
    make_transformer,
    published,
    settle,
)

NAME = re.compile(
    r"(?P<kind>manifold|grassmann?ian|riemm?ann?ian)_(?P<base>.+?)"
    r"(?:_(?P<revision>f1|f2))?(?:_(?P<type>riem|spd|all|gm|riemgrass|log))?"
)
KINDS = {"m": "manifold", "g": "grassmann", "r": "riemann"}
# Of the published code, at times
UNUSED = re.compile(r"\.self_attn\.(attn_matrix|scale|riem_scale|grassman_scale)$")


def _variants() -> dict[str, dict]:
    sined = [name + end for name in RELEASED for end in ("", "_sine")]
    vits, cvts = ([name for name in sined if name.startswith(family)] for family in ("vit", "cvt"))
    ccts = [name for name in (*sined, *ONLY_LEARNED, *CLASSES) if name.startswith("cct")]
    names = [
        f"{kind}_{name}" for kind in ("manifold", "grassmanian", "riemmanian") for name in vits
    ]
    names += [f"manifold_{name}" for name in (*cvts, *ccts)] + [
        f"grassmanian_{name}" for name in ccts
    ]
    calm = {"attn_drop_rate": 0.0, "drop_path_rate": 0.0}  # the published rates of manifold_cct_*
    variants = {}
    for name in names:
        size = published(name.partition("_")[2])["image_size"]
        variants[name] = {"name": name, "image_size": size} | (
            calm if name.startswith("manifold_cct") else {}
        )
    for size, width, heads in (("nano", 128, 4), ("tiny", 192, 4), ("small", 384, 8)):
        sizes = {
            "image_size": 224,
            "embed_dim": width,
            "num_layers": 12,
            "num_heads": heads,
            "vit_mlp_ratio": 4.0,
        }
        variants[f"manifold_vit_{size}_12_p16"] = {"name": "manifold_vit_7_16"} | sizes
        if size != "small":
            variants[f"manifold_cct_{size}"] = {"name": "manifold_cct_7_7x2"} | sizes | calm
    return variants


VARIANTS = _variants()


def parse(name: str) -> tuple[str, str, str | None, str | None]:
    """The kind of attention, compact.py's name, the revision and the attention type that a name says."""
    match = NAME.fullmatch(name.lower().replace("-", "_"))
    if not match:
        raise ValueError(
            f"no network on manifolds is called {name!r}: manifold_, grassmanian_ or riemmanian_, then a compact "
            "transformer as in manifold_cvt_6_4, then perhaps _f1 or _f2 and an attention type as in _f1_riem"
        )
    return KINDS[match["kind"][0]], match["base"], match["revision"], match["type"]


def check(name: str | None) -> None:
    """ValueError unless manifold:<name> can be built."""
    published(parse(name or "manifold_cvt_6_4")[1])


def build(
    image_size: int,
    *,
    name: str = "manifold_cvt_6_4",
    attention_type: str | None = None,
    revision: str | None = None,
    ln_attention: bool = True,
    lds_order: int | None = None,
    lds_terms: int | None = None,
    published_signs: bool = False,
    patch_size: int | None = None,
    in_channels: int = 3,
    kernel_size: int | None = None,
    conv_layers: int | None = None,
    stride: int | None = None,
    padding: int | None = None,
    embed_dim: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    vit_mlp_ratio: float | None = None,
    positional_embedding: str | None = None,
    class_token: bool | None = None,
    pre_norm: bool = False,
    drop_rate: float = 0.0,
    attn_drop_rate: float = 0.1,
    drop_path_rate: float = 0.1,
) -> Compact:
    """The network that `name` stands for with what is not None in its place, for square images of `image_size` px.

    attention_type of manifold_*: all (default), spd, gm (revision f2), all, riem (f1), riemgrass (both, part of no
    published network); of riemmanian_*: log for the gap of log covariances. ln_attention=False leaves out the layer
    norm of the maps. lds_order, lds_terms: the descriptor's, 8 and 3 with patches, 4 and 4 with convolutions or
    where tokens are narrower than 64. published_signs: of its singular vectors (_descriptor.py), for published weights.
    The rest is as in compact.py.
    """
    kind, base, *said = parse(name)
    sizes = {
        "embed_dim": embed_dim,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "vit_mlp_ratio": vit_mlp_ratio,
    }
    kinds = {
        "positional_embedding": positional_embedding,
        "class_token": class_token,
        "patch_size": patch_size,
    }
    convolutions = {
        "kernel_size": kernel_size,
        "conv_layers": conv_layers,
        "stride": stride,
        "padding": padding,
    }
    options = settle(base, **sizes, **kinds, **convolutions)
    tokenizer = make_tokenizer(base, image_size, in_channels, options)
    attention = maker(
        kind,
        revision or said[0],
        attention_type or said[1],
        ln_attention,
        options["embed_dim"],
        options["num_heads"],
        side=tokenizer.side(image_size),
        prefix=int(options["class_token"]),
        attn_drop_rate=attn_drop_rate,
        drop_rate=drop_rate,
    )
    rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate, "pre_norm": pre_norm}
    transformer = make_transformer(tokenizer.side(image_size), options, attention, **rates)
    if kind != "grassmann":
        return (AttentiveManifold if options["class_token"] else Manifold)(tokenizer, transformer)
    order, terms = settle_descriptor(
        options["embed_dim"], lds_order, lds_terms, newer=not base.startswith("cct")
    )
    descriptor = Descriptor(options["embed_dim"], order, terms, published_signs=published_signs)
    return Manifold(tokenizer, transformer, descriptor)


def settle_descriptor(
    width: int, order: int | None, terms: int | None, newer: bool
) -> tuple[int, int]:
    """Order and terms of descriptors: 8 and 3 or, also for tokens too narrow for that, 4 and 4, unless given."""
    wide = newer and width >= 64 and width % 8 == 0
    return order or (8 if wide else 4), terms or (3 if wide else 4)


class Manifold(Compact):
    """A compact transformer, its tokens perhaps replaced by their descriptors: images (B, C, h, w) -> (B, dim)."""

    def __init__(
        self, tokenizer: Tokenizer, transformer: Transformer, descriptor: Descriptor | None = None
    ) -> None:
        super().__init__(tokenizer, transformer)
        self.descriptor = descriptor
        if descriptor is not None:
            descriptor.apply(initialise)

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if self.descriptor is None:
            return super().tokens(x)
        x, grid = exact_tokens(self.tokenizer, x)
        return self.descriptor(x), grid


class AttentiveManifold(Manifold):
    """One with a class token and a softmax, whose attention can be looked at."""

    def attention(self, x: Tensor) -> Tensor:
        """The last block's attention after the softmax: images -> (B, heads, N, N), token 0 is the class token."""
        tokens, grid = self.tokens(x)
        blocks: Any = list(self.transformer.blocks)
        *body, last = blocks
        x = self.transformer.embed(tokens, grid)
        for block in body:
            x = block(x, grid)
        return last.self_attn.attention(last.pre_norm(x), grid)


def adapt(state: dict[str, Tensor], model: Compact) -> dict[str, Tensor]:
    """A backbone's state dict, the published code's or ours at another image size, under this model's names.

    Learned positions and the tables of norms of maps are resampled bilinearly to this model's grid. Parameters that
    the published code stores and never uses are left out.
    """
    renamed = {
        "classifier.": "transformer.",
        "om_layer.0.": "descriptor.norm.",
        "om_layer.2.": "descriptor.proj.",
    }
    state = fit_norms(rename(state, renamed), model)
    return fit_positions(state, "transformer.positional_emb", model.transformer)


def rename(state: dict[str, Tensor], prefixes: dict[str, str]) -> dict[str, Tensor]:
    """The state with the first of these beginnings that a name has replaced by its value."""
    named = {}
    for key, value in state.items():
        old = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        named[key if old is None else prefixes[old] + key.removeprefix(old)] = value
    return named


def fit_norms(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state without parameters that no forward pass uses, and with norms of maps on the model's grid."""
    own, fitted = model.state_dict(), dict(state)
    fitted = {key: value for key, value in fitted.items() if key in own or not UNUSED.search(key)}
    for name, module in model.named_modules():
        if isinstance(module, MapNorm):
            tables = {f"{name}.{end}": getattr(module, end) for end in ("weight", "bias")}
            fitted |= {
                k: fit_norm(fitted[k], table, module.prefix)
                for k, table in tables.items()
                if k in fitted
            }
    return fitted
