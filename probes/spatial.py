"""Where a network looks and what it keeps of each place, for any backbone: seen from outside, while it runs.

Every product of attention passes through torch's own softmax or scaled_dot_product_attention, and every map of features
through the end of a module. B images of H x W px, h x w places.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FEWEST = 4  # places of a map
SPECIAL_TOKENS = (0, 1, 2)  # before the patches: none, a class token, a distillation token too


@torch.no_grad()
def attention_maps(network: nn.Module, images: Tensor) -> Tensor | None:
    """Normalised images (B, C, H, W) -> the last attention over places (B, heads, h, w); None where there is none.

    Of a class token what it attends to, else what all places attend to on average. The network is in evaluation mode.
    """
    recorder = _Attention()
    with recorder:
        network(images)
    for weights in reversed(recorder.weights):
        found = _over_places(weights, images)
        if found is not None:
            return found
    return None


@torch.no_grad()
def feature_maps(network: nn.Module, images: Tensor) -> Tensor | None:
    """Normalised images (B, C, H, W) -> the last features that have places (B, D, h, w); None where there are none."""
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
        tensors = output if isinstance(output, tuple | list) else (output,)
        outputs.extend(t for t in tensors if isinstance(t, Tensor) and t.is_floating_point())

    handles = [module.register_forward_hook(record) for module in network.modules()]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    for output in reversed(outputs):
        found = _with_places(output, images)
        if found is not None:
            return found
    return None


def energy(features: Tensor) -> Tensor:
    """(B, D, h, w) -> the length of each place's features (B, h, w)."""
    return features.norm(dim=1)


def main_colours(features: Tensor) -> Tensor:
    """(B, D, h, w) -> the three directions of most variance over all places as colours in 0..1, (B, 3, h, w).

    As Oquab et al. 2023 (DINOv2, arXiv 2304.07193), figure 1, show them.
    """
    batch, _, height, width = features.shape
    rows = features.permute(0, 2, 3, 1).flatten(0, 2).float()
    centred = rows - rows.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    values = F.pad(centred @ directions[:3].T, (0, max(0, 3 - len(directions))))
    low, high = values.quantile(0.01, dim=0), values.quantile(0.99, dim=0)
    colours = ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return colours.view(batch, height, width, 3).permute(0, 3, 1, 2)


def spectrum(features: Tensor) -> Tensor:
    """Features (N, D) -> the deviations along their main directions, the largest first, as shares of their sum."""
    centred = features.double() - features.double().mean(0)
    values = torch.linalg.svdvals(centred)
    return values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)


class _Attention(TorchFunctionMode):
    """Records what comes out of every softmax, and what scaled_dot_product_attention weighs its values with."""

    SOFTMAX: tuple[Callable, ...] = (torch.softmax, Tensor.softmax, F.softmax)

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        if function is F.scaled_dot_product_attention:
            self.weights.append(_weights(*args, **kwargs))
        elif function in self.SOFTMAX and output.dim() >= 3:
            self.weights.append(output)
        return output


def _weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What scaled_dot_product_attention computes in between; its own arguments."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    return torch.Tensor.softmax(scores, -1)


def _over_places(weights: Tensor, images: Tensor) -> Tensor | None:
    """Attention (B, heads, queries, keys), or with the heads among the images, as maps; None where keys are no grid."""
    batch = len(images)
    if weights.dim() == 3 and weights.shape[0] % batch == 0:
        weights = weights.unflatten(0, (batch, -1))
    if weights.dim() != 4 or len(weights) != batch:
        return None
    queries, keys = weights.shape[-2:]
    for special in SPECIAL_TOKENS:
        grid = _grid(keys - special, images)
        if grid is not None:
            from_class = special > 0 or queries == 1
            row = weights[:, :, 0] if from_class else weights.mean(2)
            return row[..., special:].unflatten(-1, grid)
    return None


def _with_places(output: Tensor, images: Tensor) -> Tensor | None:
    """Of a feature map, or of tokens, their features by place; None where there are no places."""
    if len(output) != len(images):
        return None
    if output.dim() == 4:
        for first, channels_last in ((2, False), (1, True)):
            sides = tuple(output.shape[first : first + 2])
            if _grid(sides[0] * sides[1], images) == sides:
                return output.permute(0, 3, 1, 2) if channels_last else output
    if output.dim() == 3:
        for special in SPECIAL_TOKENS:
            grid = _grid(output.shape[1] - special, images)
            if grid is not None:
                return output[:, special:].transpose(1, 2).unflatten(-1, grid)
    return None


def _grid(places: int, images: Tensor) -> tuple[int, int] | None:
    """Height and width of so many places in the images' proportions."""
    if places < FEWEST:
        return None
    height, width = images.shape[-2:]
    rows = round((places * height / width) ** 0.5)
    columns = places // rows if rows else 0
    fits = rows * columns == places and rows * width == columns * height
    return (rows, columns) if fits else None
