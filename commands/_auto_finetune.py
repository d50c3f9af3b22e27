"""--recipe auto in stage two: fill in what was not stated, once the images are known."""

from multicrop.commands import _auto
from multicrop.config.auto_finetune import finetune_choices
from multicrop.config.finetune import Recipe
from multicrop.config.flags import stated_values, with_flags
from multicrop.engine import ranks
from multicrop.engine.metadata import Checkpoint


def fill_in(recipe: Recipe, images: int, stored: Checkpoint | None) -> Recipe:
    """The recipe with what was not stated, where --recipe auto is wanted; every choice is said with its reason.

    images: those that train. stored: the state of the run that is there, which keeps what was chosen for it.
    """
    if not _auto.wanted(recipe.given, recipe.data.dataset):
        return recipe
    stated = stated_values(recipe)
    parts = ranks.world_size() * recipe.optimisation.accumulate
    choices = [
        choice for choice in finetune_choices(images, parts, stated) if choice.name not in stated
    ]
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
