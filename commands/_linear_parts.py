"""The images of the linear probe: those that are fitted, those that choose C or a learning rate, and test images.

N images, D width.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._data import labelled_images, load_options
from multicrop.commands._features import own_features
from multicrop.commands._inherited import has_validation
from multicrop.commands._origin import DataOrigin
from multicrop.commands._targets import spread
from multicrop.config.linear import Recipe
from multicrop.config.sizes import ImageSize
from multicrop.datasets._images import ImageSet
from multicrop.engine import ranks, seeds
from multicrop.probes.linear_features import LinearFeatures
from multicrop.supervised import validation


@dataclass(frozen=True)
class Parts:
    """`chosen` are the training images in use; `held_out`, a part of them, or `own` are the validation images."""

    train: ImageSet
    test: ImageSet
    chosen: Tensor
    held_out: Tensor
    own: ImageSet | None = None

    @property
    def fitted(self) -> Tensor:
        """The training images without those held out."""
        return self.chosen[~torch.isin(self.chosen, self.held_out)]

    @property
    def validation_images(self) -> int:
        return len(self.held_out) if self.own is None else len(self.own)


def load_parts(recipe: Recipe, origin: DataOrigin, source_size: ImageSize, chooses: bool) -> Parts:
    """source_size: that at which image files are stored, in pixels. chooses: whether validation images are needed.

    ValueError where they are, and there is no image to hold out.
    """
    own = chooses and uses_own(recipe, origin)
    splits = ("train", "test", "val") if own else ("train", "test")
    train, test, *others = labelled_images(origin, load_options(recipe.data, source_size), splits)
    chosen = spread(len(train), recipe.data.max_train_images)
    held_out = chosen[:0]
    if own:
        return Parts(train, test, chosen, held_out, others[0])
    if chooses:
        held_out = hold_out(recipe, train, chosen)
    return Parts(train, test, chosen, held_out)


def uses_own(recipe: Recipe, origin: DataOrigin) -> bool:
    """Whether the data set's own validation split chooses."""
    wanted = recipe.linear.validation
    if wanted == "held_out":
        return False
    return has_validation(origin, asked=wanted == "own")


def hold_out(recipe: Recipe, train: ImageSet, chosen: Tensor) -> Tensor:
    """A part of each class of these training images, said in a line."""
    assert train.labels is not None
    random = seeds.generator(recipe.linear.probe_seed, "validation")
    fraction = recipe.linear.val_fraction
    _, held_out = validation.split(train.labels[chosen], fraction, random)
    if len(held_out) == 0:
        raise ValueError(
            "no class has two training images, so none can be held out to choose by: state one value (--linear_c 1, or "
            "of --probe sgd --lr 0.001)"
        )
    ranks.log(
        f"there is no validation split in use: {len(held_out)} of {len(chosen)} training images, {fraction:g} of each "
        "class, are held out to choose by"
    )
    return chosen[held_out]


class Known(NamedTuple):
    """Images that could be read."""

    features: Tensor
    """float32 (n, D), on the device; (0, D) on a rank that has not asked for them."""
    labels: Tensor
    """int64 (n,)."""
    indices: Tensor
    """int64 (n,): which of the images these are."""


class Probe(NamedTuple):
    """Frozen features, and the images that they are probed on."""

    recipe: Recipe
    parts: Parts
    features: LinearFeatures
    seen_as: EvalTransform
    device: torch.device
    dtype: torch.dtype | None

    def of(self, images: ImageSet, indices: Tensor | None = None, to: int | None = None) -> Known:
        """Features and labels of whole images, the work shared by the ranks.

        to: the rank that gets the features; None: every one.
        """
        if indices is None:
            indices = torch.arange(len(images))
        assert images.labels is not None
        settings = self.seen_as, self.device, self.dtype, self.recipe.machine.batch_size
        own = own_features(self.features, images, indices, *settings)
        kept = ranks.gather(own.indices)
        return Known(ranks.gather(own.values, to), images.labels[kept], kept)
