"""A run that is resumed on other ranks keeps its global batch, by accumulation."""

from dataclasses import replace
from typing import Any

from multicrop.config.flags import stated_values, to_flags
from multicrop.config.pretrain import COMPARING, Recipe
from multicrop.engine import ranks
from multicrop.engine.run import Run


def with_its_global_batch(recipe: Recipe, run: Run) -> Recipe:
    """Of a run that is there: with as many accumulation steps as keep its global batch, on fewer or more ranks.

    Where they do not come out even nothing is changed, and the run refuses to go on.
    """
    stored = run.stored()
    optimisation = recipe.optimisation
    part = optimisation.batch_size_per_gpu * ranks.world_size()
    before = stored.metadata.identity.get("global_batch") if stored else None
    if stored:
        _say_compared(recipe, stored.metadata.recipe, run)
    stated = "accumulate" in stated_values(recipe)
    if stated or before is None or before == part * optimisation.accumulate or before % part:
        return recipe
    accumulate = before // part
    ranks.log(
        f"{run.folder}: its global batch is {before} images, so each step is now {accumulate} x {part} "
        f"(--accumulate {accumulate})"
    )
    recipe = replace(recipe, optimisation=replace(optimisation, accumulate=accumulate))
    run.recipe = to_flags(recipe)
    return recipe


def _say_compared(recipe: Recipe, stored: dict[str, Any], run: Run) -> None:
    """A line where the images of a part are compared, and are more or fewer than before."""
    part, before = recipe.optimisation.batch_size_per_gpu, stored.get("batch_size_per_gpu")
    flags = [f"--{name}" for name in COMPARING if getattr(recipe.method, name)]
    if flags and part != before:
        ranks.log(
            f"{run.folder}: {' and '.join(flags)}: {part} images are compared at a time, before {before}, "
            "so the loss is another one"
        )
