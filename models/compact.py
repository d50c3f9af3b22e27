"""ViT-Lite, CVT and CCT: Hassani et al. 2021, arXiv 2104.05704, with the names of the released code.

ViT-Lite has patches and a class token, CVT patches and sequence pooling, CCT a convolutional tokenizer and sequence
pooling. A name is family_layers, then a patch size or kernel x convolutions, an image size and the kind of positions:
cct_7_3x1_32_sine. Those of VARIANTS were released; any other, at any image size, is --arch compact:cct_14_5x3_none.

In the released code the `_sine` names of CVT and CCT have learned positions all the same; here they are what they say,
and a file with a learned table loads into the name without `_sine`.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ._compact import Compact, SelfAttention, Transformer
from ._maps import Grid
from ._positions import fit_table
from ._sinusoid import sinusoid
from ._sizes import Size, check_heads, check_layers, check_patch, height_width
from ._tokenizer import Tokenizer

# Layers: width, heads, MLP ratio.
WIDTHS = (
    dict.fromkeys((2, 4), (128, 2, 1.0))
    | dict.fromkeys((6, 7, 8), (256, 4, 2.0))
    | {14: (384, 6, 3.0)}
)
NAME = re.compile(
    r"(?P<family>vit|cvt|cct)_(?P<layers>\d+)"
    r"(?:_(?P<kernel>\d+)(?:x(?P<convolutions>\d+))?(?:_(?P<size>\d+))?)?"
    r"(?:_(?P<positions>learnable|sine|none))?(?:_c100|_fl)?"
)
RELEASED = (
    *("vit_2_4_32", "vit_4_4_32", "vit_6_4_32", "vit_7_4_32"),
    *("cvt_2_4_32", "cvt_4_4_32", "cvt_6_4_32", "cvt_7_4_32"),
    *(
        "cct_2_3x2_32",
        "cct_4_3x2_32",
        "cct_6_3x1_32",
        "cct_6_3x2_32",
        "cct_7_3x1_32",
        "cct_7_3x2_32",
        "cct_7_7x2_224",
    ),
)
ONLY_LEARNED = ("cct_14_7x2_224", "cct_14_7x2_384", "cct_14_7x2_384_fl")
CLASSES = ("cct_7_3x1_32_c100", "cct_7_3x1_32_sine_c100")  # other classifiers, the same backbone
RECTANGLES = True  # it is built for images of any height and width
CONVOLUTIONS = ("kernel_size", "conv_layers", "stride", "padding", "in_planes")


def published(name: str) -> dict:
    """The options of `build` that a name stands for, and its image size or None. ValueError for no such name."""
    match = NAME.fullmatch(name.lower().replace("-", "_"))
    layers = int(match["layers"]) if match else 0
    if match is None or layers not in WIDTHS or not _is_whole(match):
        depths = ", ".join(map(str, WIDTHS))
        raise ValueError(
            f"no compact transformer is called {name!r}: vit or cvt, layers ({depths}) and patch size as in vit_7_4, "
            "or cct, layers, kernel x convolutions as in cct_7_3x1, then _sine or _none unless positions are learned"
        )
    width, heads, ratio = WIDTHS[layers]
    if match["family"] == "cct":
        tokens = {
            "kernel_size": int(match["kernel"] or 3),
            "conv_layers": int(match["convolutions"] or 1),
        }
    else:
        tokens = {"patch_size": int(match["kernel"] or 4)}
    return {
        "image_size": int(match["size"]) if match["size"] else None,
        "positional_embedding": match["positions"] or "learnable",
        "class_token": match["family"] == "vit",
        "embed_dim": width,
        "num_layers": layers,
        "num_heads": heads,
        "vit_mlp_ratio": ratio,
        **tokens,
    }


def _is_whole(match: re.Match[str]) -> bool:
    """Whether a name has patches or convolutions as its family does, where it says any."""
    if not match["kernel"]:
        return True
    return (match["family"] == "cct") == (match["convolutions"] is not None)


def _variants() -> dict[str, dict]:
    names = (*RELEASED, *(f"{name}_sine" for name in RELEASED), *ONLY_LEARNED, *CLASSES)
    sized = {name: {"name": name, "image_size": published(name)["image_size"]} for name in names}
    return sized | {
        name: {"name": name, "image_size": 32}
        for name in ("cct_2", "cct_4", "cct_6", "cct_7", "cct_14")
    }


VARIANTS = _variants() | {
    "vit_lite": {"name": "vit_7_4", "image_size": 32},
    "cct": {"name": "cct_7_3x1", "image_size": 32},
}


def check(name: str | None) -> None:
    """ValueError unless compact:<name> can be built."""
    published(name or "cct_7_3x1")


def build(
    image_size: Size,
    *,
    name: str = "cct_7_3x1",
    patch_size: int | None = None,
    in_channels: int = 3,
    kernel_size: int | None = None,
    conv_layers: int | None = None,
    stride: int | None = None,
    padding: int | None = None,
    in_planes: int | None = None,
    embed_dim: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    vit_mlp_ratio: float | None = None,
    qkv_bias: bool = False,
    positional_embedding: str | None = None,
    class_token: bool | None = None,
    pre_norm: bool = False,
    drop_rate: float = 0.0,
    attn_drop_rate: float = 0.1,
    drop_path_rate: float = 0.1,
) -> Compact:
    """The network that `name` stands for with what is not None in its place, for images of `image_size` px.

    A family with patches takes patch_size; CCT takes kernel_size, conv_layers, stride (k // 2 - 1), padding (k // 2)
    and in_planes (64), the channels between its convolutions. positional_embedding: learnable, sine or none.
    class_token: features from a class token, or pooled over the tokens. pre_norm: see _compact.py. ValueError on
    sizes that clash.
    """
    sizes = {
        "embed_dim": embed_dim,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "vit_mlp_ratio": vit_mlp_ratio,
    }
    kinds: dict[str, Any] = {
        "positional_embedding": positional_embedding,
        "class_token": class_token,
    }
    convolutions = {
        "kernel_size": kernel_size,
        "conv_layers": conv_layers,
        "stride": stride,
        "padding": padding,
    }
    kinds |= {"patch_size": patch_size, "in_planes": in_planes}
    options = settle(name, **sizes, **kinds, **convolutions)
    tokenizer = make_tokenizer(name, image_size, in_channels, options)
    width, heads = options["embed_dim"], options["num_heads"]
    drops = {"attn_drop_rate": attn_drop_rate, "drop_rate": drop_rate}

    def attention() -> SelfAttention:
        return SelfAttention(width, heads, qkv_bias=qkv_bias, **drops)

    rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate, "pre_norm": pre_norm}
    return Compact(
        tokenizer, make_transformer(tokenizer.grid(image_size), options, attention, **rates)
    )


def settle(name: str, **given: Any) -> dict:
    """The options that a name stands for, with the given ones that are not None in their place."""
    options = published(name) | {key: value for key, value in given.items() if value is not None}
    check_heads(options["embed_dim"], options["num_heads"])
    check_layers(options["num_layers"])
    return options


def make_tokenizer(name: str, image_size: Size, in_channels: int, options: dict) -> Tokenizer:
    """The patches or convolutions that a name and its settled options ask for; not both."""
    patches = "patch_size" in published(name)
    for key in CONVOLUTIONS if patches else ("patch_size",):
        if key in options:
            own = "patch_size" if patches else ", ".join(CONVOLUTIONS)
            raise ValueError(f"{name} has no option {key}: its tokenizer takes {own}")
    return (_patches if patches else _convolutions)(image_size, in_channels, options)


def _patches(image_size: Size, in_channels: int, options: dict) -> Tokenizer:
    patch = options["patch_size"]
    check_patch(image_size, patch)
    return Tokenizer(
        in_channels, options["embed_dim"], kernel_size=patch, stride=patch, padding=0, pool=False
    )


def _convolutions(image_size: Size, in_channels: int, options: dict) -> Tokenizer:
    half = options["kernel_size"] // 2
    sizes = {"stride": max(1, half - 1), "padding": max(1, half)}
    sizes |= {key: options[key] for key in CONVOLUTIONS if key in options}
    for key, value in sizes.items():
        if value < (key != "padding"):
            raise ValueError(f"{key} is {value}; it must be at least {int(key != 'padding')}")
    tokenizer = Tokenizer(in_channels, options["embed_dim"], **sizes)
    if not all(tokenizer.grid(image_size)):
        height, width = height_width(image_size)
        size = f"{height}" if height == width else f"{height} x {width}"
        raise ValueError(f"images of {size} px are too small for these convolutions")
    return tokenizer


def make_transformer(
    side: int | Grid, options: dict, attention: Callable[[], nn.Module], **rates: Any
) -> Transformer:
    """A transformer of the settled options for a grid, or the side of a square one, with layers of `attention()`."""
    return Transformer(
        side,
        options["embed_dim"],
        num_layers=options["num_layers"],
        attention=attention,
        mlp_ratio=options["vit_mlp_ratio"],
        class_token=options["class_token"],
        positional_embedding=options["positional_embedding"],
        **rates,
    )


def adapt(
    state: dict[str, Tensor], model: Compact, image_size: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """A backbone's state dict, the released code's or ours at another image size, under this model's names.

    Learned tables are resampled bilinearly, as published. A stored sine table is left out where this model computes
    its own; any other table that the model has no place for stays in, to be reported. image_size: height and width in
    px of the images that the state dict is for (None: they are square).
    """
    state = {re.sub(r"^classifier\.", "transformer.", key): value for key, value in state.items()}
    saved = image_size and model.tokenizer.grid(image_size)
    return fit_positions(state, "transformer.positional_emb", model.transformer, saved)


def fit_positions(
    state: dict[str, Tensor], key: str, transformer: Transformer, saved: Grid | None = None
) -> dict[str, Tensor]:
    """The state with the table under `key`, where there is one, made to fit the transformer; see `adapt`."""
    table = state.get(key)
    if table is not None and transformer.positional_emb is not None:
        own, tokens = transformer.positional_emb, transformer.num_tokens
        grids: dict[str, Grid | None] = {"grid": transformer.grid, "saved": saved}
        return state | {key: fit_table(table, own, tokens, "bilinear", **grids)}
    if table is None or transformer.positional_embedding != "sine" or table.ndim != 3:
        return state
    if torch.allclose(table.float().cpu(), sinusoid(*table.shape[1:]), atol=1e-4):
        return {name: value for name, value in state.items() if name != key}
    return state
