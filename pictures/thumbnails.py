"""Images as small files that a page holds. B images of C channels, of which the first three are shown."""

import io

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .page import data_uri


def thumbnail(pixels: Tensor, side: int = 64) -> str:
    """uint8 (C, H, W) -> a data URI of at most `side` px; never larger than the image."""
    shown = pixels[:3] if len(pixels) >= 3 else pixels[:1]
    longest = max(shown.shape[-2:])
    if longest > side:
        sizes = [max(1, round(length * side / longest)) for length in shown.shape[-2:]]
        shown = F.interpolate(
            shown[None].float(), sizes, mode="bilinear", antialias=True, align_corners=False
        )[0]
        shown = shown.round().clamp(0, 255).byte()
    array = shown.cpu().permute(1, 2, 0).numpy()
    image = Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0])
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return data_uri(file.getvalue(), "image/webp")
