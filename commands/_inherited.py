"""What stage two takes over from its weights: their images, and how these may be changed."""

from dataclasses import replace
from typing import Any

from multicrop.commands._origin import DataOrigin, data_origin
from multicrop.config.augmentation import Augmentation
from multicrop.config.finetune import FinetuneRun, Recipe
from multicrop.engine import ranks
from multicrop.engine.metadata import Metadata
from multicrop.registry import source
from multicrop.supervised.classifier import HeadInit
from multicrop.weights.pretrained import Pretrained


def resolve_recipe(recipe: Recipe, file: Pretrained) -> Recipe:
    """The recipe with what follows from the weights' file and the run's length."""
    origin = data_origin(recipe.data, file.metadata)
    data = replace(
        recipe.data,
        dataset=origin.dataset,
        datapath=origin.datapath,
        source_size=origin.source_size,
    )
    columns: dict[str, Any] = dict(origin.columns)
    run = recipe.run if recipe.start.eval else resolve_validation(recipe.run, origin)
    recipe = replace(recipe, data=replace(data, **columns), run=run)
    augmentation = inherited_augmentation(recipe, file)
    optimisation = replace(recipe.optimisation, head_init=head_init(recipe))
    return replace(recipe, augmentation=augmentation, optimisation=optimisation)


def resolve_validation(run: FinetuneRun, origin: DataOrigin) -> FinetuneRun:
    """The run with --validation own or held_out, as the data set has it; the one that is not usual is said."""
    if run.validation == "held_out":
        return run
    has_own = has_validation(origin, asked=run.validation == "own")
    if run.validation == "own":
        return run
    if has_own and run.val_fraction > 0:
        return replace(run, validation="own")
    if has_own:
        ranks.log(
            f"{origin.datapath} has a validation split, which --val_fraction 0 leaves out: --validation own takes it"
        )
    return replace(run, validation="held_out")


def has_validation(origin: DataOrigin, *, asked: bool) -> bool:
    """Whether a data set has a validation split beside training and test. ValueError where one is asked for in vain."""
    has_own = origin.source.has_validation(origin.datapath)
    if asked and not has_own:
        raise ValueError(
            f"--validation own: {origin.dataset} in {origin.datapath} has no validation split beside its "
            "training and test splits"
        )
    return has_own


def head_init(recipe: Recipe) -> HeadInit:
    """Where it is not stated, published data sets and untrained features keep the published head of random weights."""
    stated = recipe.optimisation.head_init
    if stated is not None:
        return stated
    assert recipe.data.dataset is not None
    learned = recipe.start.pretrained_weights is not None
    return "linear" if learned and source(recipe.data.dataset).own else "normal"


def never_mirrored(metadata: Metadata) -> bool:
    """Whether a network's training is known not to have mirrored images."""
    return 0 in (metadata.recipe.get("crop_flip"), metadata.recipe.get("flip"))


def inherited_augmentation(recipe: Recipe, file: Pretrained) -> Augmentation:
    """The augmentation with what is not stated as the images and the network need it.

    Images that stage one never mirrored are not mirrored now. Black borders are for the published data sets: they make
    training images darker than test images.
    """
    stated, learned = recipe.augmentation, file.metadata
    flip, fill = stated.flip, stated.padding_fill
    if flip is None and never_mirrored(learned):
        flip = 0.0
    if fill is None:
        own = recipe.backbone.standardise
        standardises = learned.backbone.get("standardise") if own is None else own
        assert recipe.data.dataset is not None
        fill = "edge" if standardises or source(recipe.data.dataset).own else "black"
    return replace(stated, flip=flip, padding_fill=fill)
