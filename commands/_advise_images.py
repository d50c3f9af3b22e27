"""What `advise` knows before anything is trained: the images, the settings that follow from them, the commands."""

import shlex
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from multicrop import cli
from multicrop.commands import _auto
from multicrop.commands.check import recognise, run_name
from multicrop.config import auto
from multicrop.config.advise import Recipe
from multicrop.config.auto import Choice, ImageFacts
from multicrop.config.flags import typed
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.datasets._survey import balance
from multicrop.engine import ranks
from multicrop.registry import source


@dataclass(frozen=True)
class Images:
    """A data set as both stages are to see it."""

    path: str
    dataset: str  # as --dataset names it
    entry: str  # of datasets/
    facts: ImageFacts
    labels: Tensor | None  # (N,) of the training images
    classes: tuple[str, ...]
    choices: list[Choice]
    columns: dict[str, str] = field(default_factory=dict)  # that are stated, by their flags

    @property
    def settings(self) -> dict[str, Any]:
        """What --recipe auto takes, by the flags' names."""
        return {choice.name: choice.value for choice in self.choices}

    @property
    def counts(self) -> dict[str, Any]:
        """Images of each class."""
        return balance(None if self.labels is None else self.labels.tolist(), self.classes)

    @property
    def flags(self) -> dict[str, str]:
        return {"dataset": self.dataset, "datapath": self.path, **self.columns}

    def described(self) -> dict[str, Any]:
        return {**asdict(self.facts), **self.counts}


def look(recipe: Recipe) -> Images:
    """Read the training images and measure what the settings follow from."""
    data, name = recognise(recipe.path, recipe.dataset, recipe.columns)
    flags = {"dataset": name, "datapath": recipe.path, "recipe": "auto", **recipe.columns}
    images, facts = _auto.look(cli.parse(Pretraining, cli.words_of(flags)))
    choices = auto.network_choices(facts)
    batch = next(choice.value for choice in choices if choice.name == "batch_size_per_gpu")
    epochs, why = auto.epochs_without_limit(facts.images, batch)
    choices += auto.run_choices(facts.images, batch, epochs, why)
    labels = images.labels if data.labelled else None
    return Images(
        recipe.path, name, data.entry, facts, labels, images.classes, choices, recipe.columns
    )


def describe(images: Images) -> None:
    """Lines for people: what there is, and which settings follow."""
    facts, counts = images.facts, images.counts
    classes = "no labels"
    if counts["classes"]:
        classes = f"{counts['classes']} classes of {counts['fewest']} to {counts['most']}"
    ranks.log(
        f"{images.dataset} reads {images.path}: {facts.images} training images of {facts.side} px, {classes}"
    )
    ranks.log("what --recipe auto takes for stage one:")
    for choice in images.choices:
        ranks.log(f"  {choice}")


def plain_commands(images: Images) -> list[str]:
    """Both stages with the settings of --recipe auto; the first alone where there are no labels."""
    folder = f"runs/{run_name(images.path, source(images.entry))}"
    first = {"recipe": "auto", **images.flags, "output_dir": folder}
    second = {**images.flags, "pretrained_weights": folder, "output_dir": f"{folder}-ft"}
    lines = [command("train_ssl.py", first)]
    return [*lines, command("finetune.py", second)] if images.labels is not None else lines


def command(script: str, flags: dict[str, Any]) -> str:
    """A line to type."""
    words = []
    for name, value in flags.items():
        quoted = shlex.quote(value) if isinstance(value, str) else typed(value)
        words.append(f"--{name} {quoted}")
    return " ".join(["python", script, *words])
