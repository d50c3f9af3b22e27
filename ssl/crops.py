"""Multi-crop: two global and several local views of every image of a batch, cut and altered on its device.

Caron et al. 2021 (DINO, arXiv 2104.14294), section 3.1 and appendix "Data augmentation", on small images as in Gani et
al. 2022 (arXiv 2210.07240): crop, flip, colour jitter, grayscale, blur, solarise, normalise, in this order.

`draw` holds all the randomness, for the whole global batch and on the CPU; the call itself is a function of images and
parameters. So a rank, or a part of a batch, takes its slice of the draw and gets what one process would have made.
B images, G global and L local crops, V views of one group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from ..augment import blur, colour, resample
from ..augment.boxes import RATIO, random_boxes
from ..augment.device import channels, exact_products, send_together
from ..config.pretrain import Recipe
from ..config.sizes import ImageSize, half

ORDERS = tuple(permutations(range(4)))
CPU_CHUNK = 128  # images at a time on a CPU, so that what is worked on stays in its cache: 512 at once cost 1.3 times


class Crops(NamedTuple):
    """Normalised float32 views of B images."""

    globals: Tensor  # (G, B, C, H, W)
    locals: Tensor  # (L, B, C, h, w); L may be 0
    labels: Tensor | None = None  # int64 (B,), where they are learned, too


@dataclass(frozen=True)
class Views:
    """What happens to V views of B images: every field is (V, B, ...)."""

    box: Tensor  # (V,B,4) int64: top, left, height, width, px
    flip: Tensor  # bool
    order: Tensor  # (V,B,4) int64: the colour operation at each turn
    factors: Tensor  # (V,B,4): brightness, contrast, saturation as multipliers, hue in turns
    grayscale: Tensor  # bool
    sigma: Tensor  # standard deviation of the blur, px of the crop; 0 is none
    solarise: Tensor  # bool

    def map(self, change: Callable[[Tensor], Tensor]) -> "Views":
        return Views(*(change(tensor) for tensor in self.tensors()))

    def tensors(self) -> list[Tensor]:
        """The fields, in order."""
        return [getattr(self, each.name) for each in fields(self)]


@dataclass(frozen=True)
class Parameters:
    """All that is random about the crops of B images; parameters[start:stop] are those of some of them."""

    globals: Views
    locals: Views
    source: tuple[int, int]  # height and width, px, of the images that they were drawn for

    def __len__(self) -> int:
        return self.globals.flip.shape[1]

    def __getitem__(self, samples: slice) -> "Parameters":
        return self.map(lambda tensor: tensor[:, samples])

    def to(self, device: torch.device | str) -> "Parameters":
        sent = send_together(self.globals.tensors() + self.locals.tensors(), device)
        count = len(fields(Views))
        return Parameters(Views(*sent[:count]), Views(*sent[count:]), self.source)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Parameters":
        return Parameters(self.globals.map(change), self.locals.map(change), self.source)


@dataclass(frozen=True)
class MultiCrop:
    """The recipe of the crops. Sizes in px, scales as shares of the image's area, the rest as published."""

    image_size: ImageSize  # side of a global crop, or height and width
    local_size: ImageSize  # of a local crop, of the same shape
    local_crops: int  # L
    global_scale: tuple[float, float]
    local_scale: tuple[float, float]
    mean: tuple[float, ...]  # of each channel, in 0..1
    std: tuple[float, ...]
    flip: float = 0.5  # probability
    jitter: float = 0.8  # probability
    brightness: float = 0.4  # multiplier uniform in 1 +- this; so are contrast and saturation
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1  # shift uniform in +- this, turns
    grayscale: float = 0.2  # probability
    # Probability in the first global, the second, a local crop
    blur: tuple[float, float, float] = (
        1.0,
        0.1,
        0.5,
    )
    # Standard deviation of the blur, px of the crop, whatever its size
    sigma: tuple[float, float] = (
        0.1,
        2.0,
    )
    solarise: float = 0.2  # probability in the second global crop
    alter: Callable[..., Crops] | None = field(default=None, compare=False)  # see `compiled`

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, mean: Sequence[float], std: Sequence[float]
    ) -> "MultiCrop":
        """The crops that stage one cuts: local ones have half the side of global ones."""
        crops, size = recipe.crops, recipe.backbone.image_size
        return cls(
            image_size=size,
            local_size=half(size),
            local_crops=crops.local_crops_number,
            global_scale=crops.global_crops_scale,
            local_scale=crops.local_crops_scale,
            mean=tuple(mean),
            std=tuple(std),
            flip=crops.crop_flip,
            jitter=crops.jitter,
            grayscale=crops.grayscale,
            blur=crops.blur,
            sigma=crops.blur_sigma,
            solarise=crops.solarise,
        )

    def __post_init__(self):
        """Raises ValueError for numbers out of range."""
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            _require(
                0 < low <= high <= 1,
                f"{name} must be two shares 0 < low <= high <= 1, not {low} {high}",
            )
        for name in ("image_size", "local_size"):
            _require(
                min(_pair(getattr(self, name))) >= 2,
                f"{name} must be at least 2 px, not {getattr(self, name)}",
            )
        for name in (
            "flip",
            "jitter",
            "brightness",
            "contrast",
            "saturation",
            "grayscale",
            "solarise",
        ):
            _require(
                0 <= getattr(self, name) <= 1,
                f"{name} must be within 0..1, not {getattr(self, name)}",
            )
        _require(
            all(0 <= p <= 1 for p in self.blur),
            f"blur must be three probabilities, not {self.blur}",
        )
        _require(
            0 <= self.sigma[0] <= self.sigma[1],
            f"sigma must be 0 <= low <= high px, not {self.sigma}",
        )
        _require(0 <= self.hue <= 0.5, f"hue must be within 0..0.5 turns, not {self.hue}")
        _require(self.local_crops >= 0, f"local_crops must not be negative, not {self.local_crops}")
        _require(
            len(self.mean) == len(self.std),
            f"mean and std differ in length: {self.mean} and {self.std}",
        )

    def draw(
        self, batch: int, height: int, width: int, generator: torch.Generator | None = None
    ) -> Parameters:
        """Parameters on the CPU for `batch` images of height x width px, from a generator of the CPU."""
        first, second, local = self.blur
        count = self.local_crops
        scales = [self.global_scale] * 2 + [self.local_scale] * count
        views = self._draw_views(
            batch,
            (height, width),
            scale=torch.tensor(scales, dtype=torch.float64),
            blur=torch.tensor([first, second] + [local] * count),
            solarise=torch.tensor([0, self.solarise] + [0] * count),
            generator=generator,
        )
        return Parameters(views.map(lambda t: t[:2]), views.map(lambda t: t[2:]), (height, width))

    def _draw_views(
        self,
        batch: int,
        source: tuple[int, int],
        scale: Tensor,
        blur: Tensor,
        solarise: Tensor,
        generator: torch.Generator | None,
    ) -> Views:
        """scale (V,2), blur and solarise (V,): what differs between views."""
        V = len(blur)
        height, width = source
        rows, columns = _pair(self.image_size)
        ratio = (RATIO[0] * columns / rows, RATIO[1] * columns / rows)
        scales = scale.repeat_interleave(batch, 0)
        box = random_boxes(scales, height, width, ratio, generator)
        uniform = torch.rand(7, V, batch, generator=generator)
        flip, jitter, order, grayscale, blurred, sigma, solarised = uniform

        # Colour: each crop has an order of the operations and a factor for each of them.
        chosen = (order * len(ORDERS)).long().flatten()
        spread = torch.tensor([self.brightness, self.contrast, self.saturation, self.hue])
        identity = torch.tensor(colour.IDENTITY)
        signed = 2 * torch.rand(V, batch, 4, generator=generator) - 1
        jittered = (jitter < self.jitter).unsqueeze(-1)

        least, most = torch.tensor(self.sigma)
        sigma = torch.lerp(least, most, sigma)
        return Views(
            box=box.view(V, batch, 4),
            flip=flip < self.flip,
            order=torch.tensor(ORDERS).index_select(0, chosen).view(V, batch, 4),
            factors=torch.where(jittered, identity + spread * signed, identity),
            grayscale=grayscale < self.grayscale,
            sigma=sigma * (blurred < blur.unsqueeze(1)),
            solarise=solarised < solarise.unsqueeze(1),
        )

    def compiled(self, compile: Callable[[Callable], Callable]) -> "MultiCrop":
        """The same crops, by what `compile` makes of the function that cuts and alters them."""
        altered = compile(self._alter)
        seen: set[torch.Size] = set()

        def alter(images: Tensor, globals: list[Tensor], locals: list[Tensor]) -> Crops:
            if (
                images.shape not in seen
            ):  # tables that a graph takes must be there before it is made
                one = ([tensor[:, :1] for tensor in views] for views in (globals, locals))
                self._alter(images[:1], *one)
                seen.add(images.shape)
            return altered(images, globals, locals)

        return replace(self, alter=alter)

    @exact_products()
    def __call__(self, images: Tensor, parameters: Parameters) -> Crops:
        """images uint8 (B,C,H,W) -> normalised crops on their device. Nothing here is random.

        Of channels beyond the third only brightness and contrast are jittered (augment/colour.py).
        Parameters on another device are sent there. Raises ValueError where images and parameters do not match.
        """
        self._check(images, parameters)
        samples = max(1, len(images))
        chunk = CPU_CHUNK if images.device.type == "cpu" else samples
        parts = [
            self._crop(images[i : i + chunk], parameters[i : i + chunk])
            for i in range(0, samples, chunk)
        ]
        if len(parts) == 1:
            return parts[0]
        views = [part.globals for part in parts], [part.locals for part in parts]
        return Crops(*(torch.cat(same_size, 1) for same_size in views))

    def _crop(self, images: Tensor, parameters: Parameters) -> Crops:
        parameters = parameters.to(images.device)
        alter = self.alter or self._alter
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return alter(images, parameters.globals.tensors(), parameters.locals.tensors())

    def _alter(self, images: Tensor, globals: list[Tensor], locals: list[Tensor]) -> Crops:
        """globals, locals: the fields of each Views, on the images' device."""
        levels = images.float()
        return Crops(
            self._views(levels, Views(*globals), self.image_size),
            self._views(levels, Views(*locals), self.local_size),
        )

    def _check(self, images: Tensor, parameters: Parameters) -> None:
        _require(
            images.dtype == torch.uint8 and images.ndim == 4,
            f"images must be uint8 (B,C,H,W), not {images.dtype}",
        )
        B, C, *source = images.shape
        described, drawn = len(self.mean), parameters.source
        _require(described == C, f"images have {C} channels, but mean and std have {described}")
        _require(
            len(parameters) == B,
            f"parameters are for {len(parameters)} images, but {B} images were given",
        )
        _require(
            drawn == tuple(source),
            f"parameters were drawn for {drawn} px, but the images have {source} px",
        )

    def _views(self, levels: Tensor, views: Views, size: ImageSize) -> Tensor:
        """levels (B,C,H,W) -> (V,B,C,h,w)."""
        sides = _pair(size)
        V, B = views.flip.shape
        if V * B == 0:
            return levels.new_empty(V, B, levels.shape[1], *sides)
        planes = resample.resize_crops(levels, views.box, views.flip, sides)
        colour.jitter_(planes, views.order, views.factors)
        colours = colour.colours(planes)
        colour.grayscale_(colours, views.grayscale)
        blur.blur_(planes, views.sigma, largest=self.sigma[1])
        colour.solarise_(colours, views.solarise)
        return self.normalise(planes)

    def normalise(self, planes: Tensor) -> Tensor:
        """Levels (C,V,B,h,w) -> zero mean and unit variance (V,B,C,h,w)."""
        mean = channels(tuple(255 * mean for mean in self.mean), planes.device)
        std = channels(tuple(255 * std for std in self.std), planes.device)
        views = planes.movedim(0, 2)
        # In one piece: a result would have the planes' order in memory
        crops = torch.empty(views.shape, dtype=planes.dtype, device=planes.device)
        return torch.sub(views, mean, out=crops).div_(std)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
