"""--recipe auto: measure the images and the machine, and fill in what was not stated."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from multicrop import registry
from multicrop.commands._data import knn_source, pretraining_images, training_source
from multicrop.commands._student import check_backbone
from multicrop.config import auto
from multicrop.config.auto import Choice, ImageFacts
from multicrop.config.data import PIXEL_FLAGS
from multicrop.config.flags import Given, stated_values, with_flags
from multicrop.config.pretrain import Recipe
from multicrop.datasets._images import ImageSet
from multicrop.datasets._survey import typical_side
from multicrop.engine import checkpoint, ranks
from multicrop.probes.images import brightness_share, mirror_share

MEASURED = 2000  # images, at most, spread evenly over the set
UNCOUNTED_STEPS, TIMED_STEPS = 2, 5
SLOW = 1.0  # seconds after which no further step is timed
# Chosen, although they may change when a run goes on
OPERATIONAL_CHOICES = ("knn_freq", "saveckp_freq", *PIXEL_FLAGS)


def wanted(given: Given | None, dataset: str | None) -> bool:
    """Whether what is not stated follows from the images: on request, and for one's own images without a recipe."""
    if given is None:  # made in Python, not by a command line
        return False
    if given.recipe is None:
        return dataset is not None and registry.source(dataset).own
    return given.recipe == "auto"


def resolve(recipe: Recipe, time_step: Callable[[Recipe, ImageSet], float]) -> Recipe:
    """The recipe as it is run: filled in where --recipe auto is wanted, with warm-ups that fit the run."""
    recipe, lines = fill_in(recipe, time_step).shortened()
    for line in lines:
        ranks.log(line)
    return recipe


def fill_in(recipe: Recipe, time_step: Callable[[Recipe, ImageSet], float]) -> Recipe:
    """The recipe with what was not stated; every choice is said with its reason.

    A run that is there keeps what was chosen for it, so that it is resumed bit-equal. time_step measures the seconds of
    one step of a recipe on images; it is called where --minutes limits the run.
    """
    limited = recipe.optimisation.minutes is not None
    if not wanted(recipe.given, recipe.data.dataset):
        if limited:
            raise ValueError("--minutes chooses epochs, and so needs --recipe auto")
        return recipe
    if limited and "epochs" in _stated(recipe):
        raise ValueError("--minutes chooses epochs: leave it or --epochs out")
    registry.architecture(recipe.backbone.arch)  # names are checked before a long decoding
    registry.find("ssl.objectives", recipe.method.objective)
    earlier = ranks.broadcast_object(lambda: _chosen_before(recipe))
    if earlier is not None:
        ranks.log(f"{recipe.run.output_dir}: goes on with the settings that were chosen for it")
        return _with(recipe, earlier)
    images, facts = look(recipe)
    ranks.log(
        f"--recipe auto: {facts.images} images of {facts.side} px; what is stated on the command line stays"
    )
    # What compares images asks how many a part has
    batch, _ = auto.batch_size(facts.images)
    stated = share_of_batch(recipe, batch) | stated_values(recipe)
    choices = [_of_this_rank(recipe, choice) for choice in auto.network_choices(facts, stated)]
    recipe = _apply(recipe, choices)
    return _apply(recipe, _run_choices(recipe, images, time_step))


def look(recipe: Recipe) -> tuple[ImageSet, ImageFacts]:
    """The training images as stage one stores them, and what the rules need to know of them."""
    side = ranks.broadcast_object(lambda: _side_of_files(recipe))
    if side is not None:
        size, _ = auto.image_size(side)
        recipe = _with(recipe, {"image_size": size})
        check_network(recipe, side)
    knn_source(recipe)
    no_probe = replace(recipe, run=replace(recipe.run, knn_freq=0))
    images, _ = pretraining_images(no_probe)
    if side is None:
        side = min(images.pixels.shape[-2:])
    return images, ranks.broadcast_object(lambda: measure(images, side))


def check_network(recipe: Recipe, side: int) -> None:
    """ValueError before a long decoding where stated sizes clash. Sizes that images decide are the smallest ones."""
    facts = ImageFacts(images=1, side=side, brightness_share=0.0, mirror_share=0.5)
    values = _known(recipe, auto.network_choices(facts, stated_values(recipe)))
    check_backbone(_with(recipe, values), channels=3)


def measure(images: ImageSet, side: int) -> ImageFacts:
    count = min(len(images), MEASURED)
    pixels = images.pixels[torch.arange(count) * len(images) // count]
    return ImageFacts(len(images), side, brightness_share(pixels), mirror_share(pixels))


def timed_step(steps: Iterable[object], device: torch.device) -> float:
    """Seconds of one step, of several that an endless iterable does, without the first ones."""
    iterator = iter(steps)
    _several(iterator, device, UNCOUNTED_STEPS)
    return _several(iterator, device, TIMED_STEPS)


def _several(steps: Iterator[object], device: torch.device, count: int) -> float:
    """Seconds of one of so many steps, fewer where they are slow."""
    _wait(device)
    start, done, goes_on = time.perf_counter(), 0, True
    while done < count and goes_on:
        next(steps)
        done += 1
        goes_on = ranks.all_true(time.perf_counter() - start < SLOW)  # steps are taken together
    _wait(device)
    return (time.perf_counter() - start) / done


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()


def _chosen_before(recipe: Recipe) -> dict[str, Any] | None:
    """The settings of the run that is there, but what may change from call to call; None where there is no run."""
    newest = checkpoint.newest(Path(recipe.run.output_dir), ranks.log)
    if (
        newest is None or newest[0].metadata.kind != "ssl"
    ):  # Run.resume says what is wrong with others
        return None
    metadata = newest[0].metadata
    chosen = {
        name: value
        for name, value in metadata.recipe.items()
        if name not in recipe.OPERATIONAL or name in OPERATIONAL_CHOICES
    }
    return chosen | share_of_batch(recipe, metadata.identity["global_batch"])


def _of_this_rank(recipe: Recipe, choice: Choice) -> Choice:
    """The choice, and of the batch this rank's part."""
    if choice.name != "batch_size_per_gpu":
        return choice
    part = share_of_batch(recipe, choice.value)[choice.name]
    return replace(choice, value=part, reason=f"{choice.value} over all processes {choice.reason}")


def share_of_batch(recipe: Recipe, global_batch: int) -> dict[str, int]:
    """A rank's part of the global batch."""
    parts = ranks.world_size() * recipe.optimisation.accumulate
    return {"batch_size_per_gpu": max(1, global_batch // parts)}


def _side_of_files(recipe: Recipe) -> int | None:
    """The median of the image files' shorter sides in pixels; None of sets in binary files."""
    data = recipe.data
    listing = training_source(data).listing(data.datapath, "train")
    return None if listing is None else typical_side(listing)


def _run_choices(
    recipe: Recipe, images: ImageSet, time_step: Callable[[Recipe, ImageSet], float]
) -> list[Choice]:
    """What depends on the length of the run, which is stated, or fits the minutes, or is the default."""
    optimisation = recipe.optimisation
    batch = optimisation.batch_size_per_gpu * ranks.world_size() * optimisation.accumulate
    per_epoch = max(1, len(images) // batch)
    if "epochs" in _stated(recipe):
        epochs, why = optimisation.epochs, "stated"
    elif optimisation.minutes is None:
        epochs, why = auto.epochs_without_limit(len(images), batch)
    else:
        own_seconds = time_step(recipe, images)  # ranks step together
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what was measured on is gone, and its memory is to be free
        seconds = ranks.broadcast_object(lambda: own_seconds)
        epochs, why = auto.epochs_within(optimisation.minutes, seconds, per_epoch)
    return auto.run_choices(len(images), batch, epochs, why)


def _apply(recipe: Recipe, choices: list[Choice]) -> Recipe:
    """The recipe with the choices that were not stated and that its backbone knows."""
    values = _known(recipe, choices)
    for choice in choices:
        if choice.name in values:
            ranks.log(f"  {choice}")
    return _with(recipe, values)


def _known(recipe: Recipe, choices: list[Choice]) -> dict[str, Any]:
    """Those values that were not stated and that the backbone knows."""
    stated = _stated(recipe)
    values: dict[str, Any] = {}
    for choice in choices:
        if choice.name in stated:
            continue
        arch = values.get("arch", recipe.backbone.arch)
        if choice.name in auto.SIZES_OF_VIT and registry.architecture(
            arch
        ) != registry.architecture("vit"):
            continue
        values[choice.name] = choice.value
    return values


def _stated(recipe: Recipe) -> tuple[str, ...]:
    return recipe.given.flags if recipe.given else ()


def _with(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with these values where none was stated."""
    stated = _stated(recipe)
    unstated = {name: value for name, value in values.items() if name not in stated}
    return with_flags(recipe, unstated)
