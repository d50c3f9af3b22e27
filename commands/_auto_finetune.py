"""--recipe auto in stage two: fill in what was not stated, once the images are known."""

from dataclasses import fields

from multicrop import registry
from multicrop.commands import _auto
from multicrop.commands._finetune_data import FinetuneData
from multicrop.commands._networks import count_weights
from multicrop.config.auto import Choice, ImageFacts, network_choices
from multicrop.config.auto_finetune import finetune_choices
from multicrop.config.backbone import BackboneSettings
from multicrop.config.finetune import Recipe
from multicrop.config.flags import stated_values, with_flags
from multicrop.datasets._console import only_trying
from multicrop.datasets._images import ImageSet
from multicrop.datasets._survey import typical_side
from multicrop.engine import ranks
from multicrop.engine.metadata import Checkpoint

OF_NETWORK = tuple(field.name for field in fields(BackboneSettings))
MEASURED = ("standardise",)  # of the network, what follows from pixels


def fill_in(recipe: Recipe, data: FinetuneData, stored: Checkpoint | None) -> Recipe:
    """The recipe with what was not stated, where --recipe auto is wanted; every choice is said with its reason.

    stored: the state of the run that is there, which keeps what was chosen for it.
    """
    if not _auto.wanted(recipe.given, recipe.data.dataset):
        return recipe
    stated = stated_values(recipe)
    images, weights = len(data.chosen), count_weights(data.backbone)
    parts = ranks.world_size() * recipe.optimisation.accumulate
    # What is stated of a run that is there may be what was chosen for it: the rest is as it was all the same
    others = stated if stored is None else {}
    choices = finetune_choices(images, parts, others, weights)
    choices = [choice for choice in choices if choice.name not in stated]
    chosen = {choice.name: choice.value for choice in choices}
    if stored is not None:
        ranks.log(f"{recipe.run.output_dir}: goes on with the settings that were chosen for it")
        before = stored.metadata.recipe
        chosen = {name: before.get(name, value) for name, value in chosen.items()}
    else:
        ranks.log(f"--recipe auto: {images} images; what is stated on the command line stays")
        for choice in choices:
            ranks.log(f"  {choice}")
    return with_flags(recipe, chosen)


# The network of random weights


def chooses_network(recipe: Recipe) -> bool:
    """Whether the network is that of stage one's --recipe auto: it begins with random weights, and none is named."""
    wanted = _auto.wanted(recipe.given, recipe.data.dataset)
    return wanted and recipe.start.scratch and "arch" not in stated_values(recipe)


def network_of_files(recipe: Recipe, stored: Checkpoint | None) -> Recipe:
    """The recipe with what follows from the headers of the images, so that they are stored as the network needs them.

    stored: the state of the run that is there, which keeps its network.
    """
    if not chooses_network(recipe):
        return recipe
    if stored is not None:
        stated = stated_values(recipe)
        before = {name: stored.metadata.recipe.get(name) for name in OF_NETWORK}
        return with_flags(
            recipe, {name: value for name, value in before.items() if name not in stated}
        )
    found = ranks.broadcast_object(lambda: _count_and_side(recipe))
    if found is None:
        return recipe
    facts = ImageFacts(*found, brightness_share=0.0, mirror_share=0.5)
    choices = network_choices(facts, stated_values(recipe))
    ranks.log(
        "--recipe auto, and no --arch: the network that it takes in stage one, from random weights"
    )
    return _with_network(recipe, [choice for choice in choices if choice.name not in MEASURED])


def network_of_pixels(recipe: Recipe, images: ImageSet, stored: Checkpoint | None) -> Recipe:
    """The recipe with the rest of the network, which follows from the training images themselves."""
    if stored is not None or not chooses_network(recipe):
        return recipe
    side = min(images.pixels.shape[-2:])
    facts = ranks.broadcast_object(lambda: _auto.measure(images, side))
    choices = network_choices(facts, stated_values(recipe))
    if recipe.backbone.arch is not None:  # known from the files
        choices = [choice for choice in choices if choice.name in MEASURED]
    recipe = _with_network(recipe, choices)
    black = recipe.augmentation.padding_fill == "black" and "padding_fill" not in stated_values(
        recipe
    )
    if recipe.backbone.standardise and black:
        recipe = with_flags(recipe, {"padding_fill": "edge"})
        ranks.log(
            "  --padding_fill edge: a black border would change what images are standardised by"
        )
    return recipe


def _count_and_side(recipe: Recipe) -> tuple[int, int] | None:
    """How many training images there are, and the median of their shorter sides; None of sets in binary files."""
    data = recipe.data
    assert data.dataset is not None and data.datapath is not None  # resolved before
    if data.download:
        return None
    with only_trying():  # what is peculiar is said when they are read
        listing = (
            registry.source(data.dataset).with_columns(data.columns).listing(data.datapath, "train")
        )
    return None if listing is None else (len(listing.names), typical_side(listing))


def _with_network(recipe: Recipe, choices: list[Choice]) -> Recipe:
    """The recipe with those choices that are of the network and that were not stated; each is said."""
    stated = stated_values(recipe)
    chosen = [c for c in choices if c.name in OF_NETWORK and c.name not in stated]
    for choice in chosen:
        ranks.log(f"  {choice}")
    return with_flags(recipe, {choice.name: choice.value for choice in chosen})
