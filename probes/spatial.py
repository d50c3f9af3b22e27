"""Where a network looks and what it keeps of each place, for any backbone: seen from outside, while it runs.

Every product of attention passes through torch's own softmax or scaled_dot_product_attention, and every map of features
through the end of a module. B images of H x W px, h x w places.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FEWEST = 4  # places of a map
SPECIAL_TOKENS = (
    0,
    1,
    2,
    5,
    4,
)  # before the patches: none, a class token, a distillation token too, or registers
Move = tuple[str, int, int]
"""What was done to a map, and by how many places down and to the right."""


@torch.no_grad()
def attention_maps(network: nn.Module, images: Tensor) -> Tensor | None:
    """Normalised images (B, C, H, W) -> the last attention over places (B, heads, h, w); None where there is none.

    Of a class token what it attends to, else what all places attend to on average, of windows all side by side. The
    network is in evaluation mode. Attention that is not made by a softmax (Grassmann maps) has signs, and is no share.
    """
    recorder = _Attention()
    with recorder, recorder.off_grids(network):
        network(images)
    for weights, moves in reversed(recorder.found):
        found = _over_places(weights, images)
        if found is None:
            found = _over_windows(weights, moves, images)
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
    """Records what comes out of every softmax, and what scaled_dot_product_attention weighs its values with.

    With it goes how the map was moved before it was cut into windows: by torch.roll to the upper left, by F.pad at the
    lower right, in their order.
    """

    SOFTMAX: tuple[Callable, ...] = (torch.softmax, Tensor.softmax, F.softmax)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, list[Move]]] = []
        self._moves: list[Move] = []
        self._in_grids = 0

    @contextmanager
    def off_grids(self, network: nn.Module) -> Iterator[None]:
        """Attention inside modules that are named so is over places far apart (MaxViT): it makes no map."""

        def enter(*_: Any) -> None:
            self._in_grids += 1

        def leave(*_: Any) -> None:
            self._in_grids -= 1

        handles = []
        for name, module in network.named_modules():
            if "grid" in name.rpartition(".")[2].lower():
                handles.append(module.register_forward_pre_hook(enter))
                handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        if function is F.scaled_dot_product_attention:
            self._record(_weights(*args, **kwargs))
        elif function in self.SOFTMAX and output.dim() >= 3:
            self._record(output)
        elif function in (torch.roll, Tensor.roll):
            shifts = kwargs.get("shifts", args[1] if len(args) > 1 else None)
            if isinstance(shifts, tuple | list) and len(shifts) == 2 and max(shifts) <= 0:
                self._moves.append(("roll", int(shifts[0]), int(shifts[1])))
        elif function is F.pad:
            sides = kwargs.get("pad", args[1] if len(args) > 1 else ())
            if len(sides) == 6:  # channels last
                self._moves.append(("pad", int(sides[5]), int(sides[3])))
        return output

    def _record(self, weights: Tensor) -> None:
        if not self._in_grids:
            self.found.append((weights, self._moves))
        self._moves = []


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
    # Behind the patches may stand a token of each head (DHVT)
    for special, last in product(SPECIAL_TOKENS, (0, weights.shape[1])):
        places = keys - special - last
        grid = _grid(places, images)
        if grid is not None and (special or not last):
            from_class = special > 0 or queries == 1
            row = weights[:, :, 0] if from_class else weights.mean(2)
            return row[..., special : special + places].unflatten(-1, grid)
    return None


def _over_windows(weights: Tensor, moves: list[Move], images: Tensor) -> Tensor | None:
    """Attention within square windows (B, windows, heads, N, N), the windows maybe among the images, as maps."""
    batch = len(images)
    if weights.dim() == 4 and weights.shape[0] % batch == 0:
        weights = weights.unflatten(0, (batch, -1))
    if weights.dim() != 5 or len(weights) != batch or weights.shape[-2] != weights.shape[-1]:
        return None
    count, side = weights.shape[1], math.isqrt(weights.shape[-1])
    height, width = images.shape[-2:]
    rows = max(1, round((count * height / width) ** 0.5))
    if count % rows or side * side != weights.shape[-1] or count * side * side < FEWEST:
        return None
    # (B, heads, window rows, side, window columns, side)
    windows = weights.mean(-2).unflatten(-1, (side, side)).unflatten(1, (rows, -1))
    maps = windows.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3) / count
    for kind, down, right in reversed(moves):
        if kind == "roll":
            maps = maps.roll((-down, -right), (2, 3))
        elif down < side and right < side:
            maps = maps[:, :, : maps.shape[2] - down, : maps.shape[3] - right]
    return maps


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
