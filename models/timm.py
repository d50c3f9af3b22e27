"""Any model of timm (Wightman, github.com/huggingface/pytorch-image-models), as `timm:<name>`, with random weights.

State-dict names are timm's own, so its published weights load by name.
"""

import difflib
import re
import sys
from functools import partial
from typing import Any

import timm
import torch.nn as nn
from torch import Tensor

from ._maps import Map
from ._sizes import Size

RECTANGLES = True  # those of timm say themselves which heights and widths they take
# What lets a model take crops of several sizes. No family takes all of these, and timm says which only by refusing.
SEVERAL_SIZES = {"dynamic_img_size": True, "dynamic_img_pad": True, "strict_img_size": False}


def build(
    image_size: Size,
    *,
    name: str | None = None,
    patch_size: int | None = None,
    in_channels: int = 3,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
) -> nn.Module:
    """The timm model `name` without classifier: images (B, C, h, w) -> its pooled features (B, dim).

    Its `create_options` are the keywords of timm.create_model that make another one of the same form. patch_size is the
    model's own unless given. drop_path_rate does nothing in a family without stochastic depth.
    ValueError for an unknown name, or for a patch size or drop rate that the model does not take.
    """
    name = check(name)
    asked: dict[str, Any] = {}
    if patch_size is not None:
        asked["patch_size"] = patch_size
    if drop_rate:
        asked["drop_rate"] = drop_rate
    optional = {"img_size": image_size, "drop_path_rate": drop_path_rate, **SEVERAL_SIZES}
    model, options = _create(name, {"in_chans": in_channels, **asked}, optional)
    model.create_options = options
    model.dim = getattr(model, "head_hidden_size", None) or model.num_features
    model.maps = _maps(model)
    model.forward_maps = partial(_forward_maps, model)  # a bound method could not be pickled
    return model


def _maps(model: Any) -> dict[str, Map]:
    """The maps that timm's forward_intermediates gives, by the names of feature_info; {} where it gives none.

    There is no `stages` beside it: some of timm's families have modules of that name.
    """
    if not hasattr(model, "forward_intermediates"):
        return {}
    return {info["module"]: Map(info["num_chs"], info["reduction"]) for info in model.feature_info}


def _forward_maps(model: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The features of `forward` and all maps (B, width, h, w). ValueError for a model without feature maps."""
    if not model.maps:
        raise ValueError(
            f"timm's {type(model).__name__} gives no feature maps (it has no forward_intermediates)"
        )
    x, maps = model.forward_intermediates(x, output_fmt="NCHW")
    return model.forward_head(x), dict(zip(model.maps, maps, strict=True))


def check(name: str | None) -> str:
    """The name; ValueError with the nearest names where timm has no model of this one."""
    if not name:
        raise ValueError("timm: needs a model's name, e.g. timm:resnet18")
    if not timm.is_model(name):
        names = timm.list_models()
        longer = [model for model in names if model.startswith(name)]
        near = (longer or difflib.get_close_matches(name, names, n=3, cutoff=0))[:3]
        raise ValueError(
            f"timm {timm.__version__} has no model {name!r}; the nearest: {', '.join(near)}"
        )
    return name


def _create(name: str, asked: dict, optional: dict) -> tuple[Any, dict]:
    """timm.create_model with every optional keyword that the model takes, and all that it took.

    ValueError if it refuses one of `asked`.
    """
    while True:
        options = asked | optional
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **options), options
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            refused = set(re.findall(r"'(\w+)'", str(error)))
            refused_flags = sorted(refused & set(asked))
            if refused_flags:
                raise ValueError(f"timm:{name} has no option {', '.join(refused_flags)}") from error
            if not refused & set(optional):
                raise
            optional = {key: value for key, value in optional.items() if key not in refused}


def adapt(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict of the same timm model, published or saved at another image size, converted by timm's own rule."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return dict(state) if convert is None else convert(dict(state), model)
