"""Seconds of a step of either stage here, measured on networks that are thrown away."""

from collections.abc import Iterator

from multicrop.commands import _auto, finetune, pretrain
from multicrop.commands._classifier import build
from multicrop.commands._data import pretraining_images
from multicrop.commands._finetune_data import build_batches, load, mixed_batches
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine import ranks
from multicrop.engine.precision import autocast_dtype
from multicrop.supervised.augmentation import TrainTransform
from multicrop.supervised.mixing import Mixing


def pretraining_step(recipe: Pretraining) -> float:
    device = ranks.start(recipe.run.device)
    dtype = autocast_dtype(recipe.run.precision, device)
    recipe = _auto.resolve(recipe, lambda *_: 1.0)  # its epochs are stated
    images, _ = pretraining_images(recipe)
    return pretrain.time_step(recipe, images, device, dtype)


def finetuning_step(recipe: Finetuning) -> float:
    """Of a classifier from scratch: weights of stage one would not change its speed."""
    device = ranks.start(recipe.run.device)
    dtype = autocast_dtype(recipe.run.precision, device)
    file = finetune.read_start(recipe)
    recipe = finetune.resolve_recipe(recipe, file)
    data = load(recipe, file)
    batches = build_batches(recipe, data, device)
    mean, std, side = data.train.mean, data.train.std, data.backbone["image_size"]
    transform = TrainTransform.from_recipe(recipe.augmentation, data.entry, side, mean, std)
    train_state = build(recipe, file, data, device)
    mix = Mixing.from_recipe(recipe.augmentation, 0, recipe.optimisation.repeats)

    def steps() -> Iterator[finetune.StepOutput]:
        while True:
            parts = mixed_batches(batches, transform, mix, recipe, 0, train_state.stored_maps)
            yield finetune.update(train_state, parts, recipe, 0.0, 0, dtype)

    return _auto.timed_step(steps(), device)
