"""The images of stage two, and in which batches they come."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from multicrop import registry
from multicrop.commands._data import labelled_images, load_options, resolve_source_size
from multicrop.commands._networks import fill_backbone
from multicrop.commands._origin import DataOrigin, data_origin
from multicrop.config.finetune import Recipe
from multicrop.config.sizes import ImageSize, height_width, shortest
from multicrop.datasets._console import only_trying
from multicrop.datasets._images import ImageSet
from multicrop.datasets._stream import Streamed
from multicrop.datasets._survey import shared_size
from multicrop.engine import ranks, sampling, seeds
from multicrop.engine.batches import Batches, Pixels
from multicrop.supervised import mixing, validation
from multicrop.supervised.augmentation import TrainTransform, colours
from multicrop.supervised.label_draws import draw_labels
from multicrop.supervised.mixing import Mixed, Mixing
from multicrop.weights.pretrained import Pretrained

MapsOfBatch = Callable[..., list[Tensor]]  # (indices, draws) -> the teacher's maps of a batch


@dataclass(frozen=True)
class FinetuneData:
    """The images of all splits; `chosen` are the training images in use, `held_out` those of the validation.

    validation: the data set's own, and then none are held out.
    """

    entry: str  # of datasets/
    dataset: str  # as --dataset names it
    train: ImageSet
    test: ImageSet
    chosen: Tensor
    held_out: Tensor
    backbone: dict[str, Any]  # the arguments that build the network for these images
    reported: bool  # whether it has been said what the weights' file fills
    shows_test: bool = True  # whether test accuracies may be looked at during training
    validation: ImageSet | None = None

    @property
    def labels(self) -> Tensor:
        assert self.train.labels is not None
        return self.train.labels

    def with_network(self, recipe: Recipe, file: Pretrained) -> "FinetuneData":
        """For the network of a recipe in which by now everything is chosen."""
        described, channels = file.metadata.backbone, self.train.pixels.shape[1]
        options = backbone_options(recipe, described, size_of(self.train), channels)
        return replace(self, backbone=options)

    def watched(self) -> tuple[str, ImageSet, Tensor | None] | None:
        """What to look at after an epoch: the validation images, or where none are wanted the test images."""
        if self.validation is not None:
            return "val", self.validation, None
        if len(self.held_out):
            return "val", self.train, self.held_out
        return ("test", self.test, None) if self.shows_test else None

    @property
    def validation_counts(self) -> Tensor:
        """Validation images of each class (classes,)."""
        labels = self.labels[self.held_out]
        if self.validation is not None and self.validation.labels is not None:
            labels = self.validation.labels
        return labels.bincount(minlength=len(self.train.classes))


def load(recipe: Recipe, file: Pretrained) -> FinetuneData:
    described = file.metadata.backbone
    early = backbone_options(recipe, described, None, described.get("in_channels", 3))
    if file.path and early["image_size"]:  # what the file fills is said before a long decoding
        fill_backbone(registry.backbone(**early), file, early["arch"], options=early)
    else:
        registry.check(**early)
    origin = data_origin(recipe.data, file.metadata)
    image_size = recipe.backbone.image_size or described.get("image_size")
    source_size = resolve_source_size(origin.source_size, image_size, crops=False)
    if image_size is None and not recipe.data.download:
        ranks.broadcast_object(lambda: check_network(early, origin, source_size))
    own_validation = recipe.run.validation == "own"
    splits = ("train", "test", "val") if own_validation else ("train", "test")
    loaded = labelled_images(origin, load_options(recipe.data, source_size), splits)
    mean, std = colours(recipe.augmentation, loaded[0].mean, loaded[0].std)
    train, test, *others = (replace(split, mean=mean, std=std) for split in loaded)
    assert train.labels is not None
    random = seeds.generator(recipe.optimisation.seed, "validation")
    fraction = 0.0 if own_validation else recipe.run.val_fraction
    used = labels_in_use(recipe, train.labels)
    chosen, held_out = validation.split(train.labels[used], fraction, random)
    chosen, held_out = used[chosen], used[held_out]
    options = backbone_options(recipe, described, size_of(train), train.pixels.shape[1])
    entry = registry.source(origin.dataset).entry
    return FinetuneData(
        entry,
        origin.dataset,
        train,
        test,
        chosen,
        held_out,
        options,
        reported=options == early,
        shows_test=not own_validation and fraction == 0,
        validation=others[0] if others else None,
    )


def check_network(options: dict[str, Any], origin: DataOrigin, source_size: ImageSize) -> None:
    """ValueError before a long decoding where the network takes images of no size that these may have by then.

    They are stored in the size that they share, which a sample of their headers says, or in that of source_size.
    """
    with only_trying():
        listing = origin.source.listing(origin.datapath, "train")
    if listing is None:  # read at once
        return
    problem = None
    for size in (shared_size(listing, height_width(source_size)), source_size):
        try:
            registry.check(**{**options, "image_size": size})
        except ValueError as error:
            problem = problem or error
        else:
            return
    if problem is not None:
        raise problem


def labels_in_use(recipe: Recipe, labels: Tensor) -> Tensor:
    """Labels (N,) -> indices of the training images whose labels may be used; where these are few, a line says so."""
    percent = recipe.run.label_percent
    if percent == 100:
        return torch.arange(len(labels))
    used = draw_labels(labels, percent, seeds.generator(recipe.run.label_draw, "labels"))
    ranks.log(
        f"--label_percent {percent:g}: {len(used)} of {len(labels)} training images, draw {recipe.run.label_draw}"
    )
    return used


def size_of(images: ImageSet) -> ImageSize:
    height, width = images.pixels.shape[2:]
    return shortest((height, width))


def backbone_options(
    recipe: Recipe, described: dict[str, Any], image_size: ImageSize | None, channels: int
) -> dict[str, Any]:
    """Arguments of registry.backbone: flags first, then what the weights' file says, then `image_size`."""
    if recipe.backbone.arch not in (None, described.get("arch")):
        described = {name: described[name] for name in ("image_size",) if name in described}
    options = {"arch": "vit", "image_size": image_size, **described, **recipe.backbone.options()}
    if recipe.optimisation.drop_rate is not None:
        options["drop_rate"] = recipe.optimisation.drop_rate
    options.pop("patch_drop_rate", None)  # of stage one alone
    return {**options, "drop_path_rate": recipe.optimisation.sd, "in_channels": channels}


def build_batches(recipe: Recipe, data: FinetuneData, device: torch.device) -> Batches:
    optimisation = recipe.optimisation
    pixels: Pixels = data.train.pixels
    if isinstance(pixels, Streamed):
        pixels.take_substitutes_from(data.chosen)
    order = None
    seed = optimisation.seed
    if optimisation.balanced_sampler:
        labels = data.labels[data.chosen]
        order = partial(sampling.balanced, labels, seed, passes=optimisation.ra)
    elif optimisation.repeats > 1:
        images = len(data.chosen)
        order = partial(sampling.repeated, images, seed, repeats=optimisation.repeats)
    return Batches(
        pixels,
        data.train.labels,
        images_per_part(recipe, ranks.world_size()),
        seed=seed,
        device=device,
        passes=optimisation.ra,
        subset=data.chosen,
        accumulate=optimisation.accumulate,
        rank=ranks.rank(),
        world=ranks.world_size(),
        order=order,
    )


def images_per_part(recipe: Recipe, world: int) -> int:
    """Images of a batch per rank and part. ValueError where they do not come out even."""
    optimisation = recipe.optimisation
    batch, parts = optimisation.batch_size, world * optimisation.accumulate
    if batch % parts:
        raise ValueError(
            f"--batch_size {batch} is not divisible by {world} ranks x {optimisation.accumulate} parts"
        )
    share = batch // parts
    group = 2 * Mixing.from_recipe(recipe.augmentation, copies=optimisation.repeats).distance
    if share % group and share < batch and recipe.augmentation.mixes:
        how = "an odd number, and mixing takes them by pairs"
        if group > 2:
            how = f"and mixing with --repeats {optimisation.repeats} takes them by {group}"
        raise ValueError(
            f"--batch_size {batch} over {world} ranks x {optimisation.accumulate} parts is {share} images each, "
            f"{how}: change one of these, or --mix_prob 0"
        )
    return share


def mixed_batches(
    batches: Batches,
    transform: TrainTransform,
    mix: Mixing,
    recipe: Recipe,
    step: int,
    stored_maps: MapsOfBatch | None,
) -> Iterator[Mixed]:
    """The images of each accumulation step; what is done to them is drawn for the global batch, then cut by rank."""
    random = seeds.generator(recipe.optimisation.seed, "augment", step)
    draws = transform.draw(batches.total, random, batches.pixels.shape[2:])
    mix_draw = mix.draw(transform.height, transform.width, random)
    for batch in batches.step(step):
        assert batch.labels is not None
        own_draws = draws[batch.rank_slice]
        mixed = mixing.apply(transform(batch.images, own_draws), batch.labels, mix_draw)
        if stored_maps:
            mixed = replace(mixed, maps=stored_maps(batch.index, own_draws))
        yield mixed
