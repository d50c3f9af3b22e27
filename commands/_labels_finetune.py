"""The runs of stage two of `multicrop labels`: one for each share of labels and draw, in a folder of its own."""

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from multicrop import cli
from multicrop.commands import _auto, finetune
from multicrop.commands._inherited import never_mirrored
from multicrop.commands._labels_rows import FINETUNE, PRETRAINED, Cell, Job, cells, identity_of
from multicrop.commands._networks import count_weights
from multicrop.commands._origin import DataOrigin
from multicrop.config.auto_finetune import finetune_choices
from multicrop.config.backbone import BackboneSettings
from multicrop.config.data import PIXEL_FLAGS
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.flags import to_flags
from multicrop.config.labels import Recipe
from multicrop.engine import ranks
from multicrop.engine.files import standard_error_to
from multicrop.weights.pretrained import Pretrained

LOG = "log.txt"
FITS = ("crop", "squeeze", "pad")
MEASURED = ("top1", "balanced_accuracy", "macro_f1")


class Interrupted(Exception):
    """A run was stopped by a signal; the same command takes it up."""


class Finetunings:
    """Runs of stage two with a part of the labels, from the weights or from random ones of the same network."""

    def __init__(
        self,
        recipe: Recipe,
        file: Pretrained,
        network: dict[str, Any],
        origin: DataOrigin,
        folder: Path,
    ):
        """network: options of the backbone. ValueError where the recipe of the runs is wrong."""
        self.recipe, self.file, self.origin, self.folder = recipe, file, origin, folder
        self.weights = count_weights(network)
        path = recipe.methods.finetune_recipe
        self.words = ["--recipe", path] if path else []
        self.base = cli.parse(Finetuning, self.words)

    def jobs(self, labels: Tensor, images: dict[str, Any], weights: str) -> Iterator[Job]:
        """A job for each share and draw. images, weights: what tells these from others."""
        methods = self.recipe.methods
        kinds: list[tuple[str, bool, str | None]] = []
        if methods.scratch:
            kinds.append(("random weights", True, None))
        if methods.finetune:
            kinds.append((PRETRAINED, False, weights))
        for network, scratch, hash_of_weights in kinds:
            for cell in cells(self.recipe.labels, network, FINETUNE):
                used = len(cell.labelled(labels))
                own = self.build(cell, scratch, used)
                settings = {"images": images, "weights": hash_of_weights, **settings_of(own)}
                yield Job(cell, settings, partial(self.run, own, cell, settings, used))

    def build(self, cell: Cell, scratch: bool, images: int) -> Finetuning:
        """The recipe of one run, but for its folder. images: how many have labels."""
        base, methods = self.base.optimisation, self.recipe.methods
        unit = 2 * ranks.world_size() * base.accumulate  # images are mixed by pairs
        chosen: dict[str, Any] = {"batch_size": base.batch_size, "epochs": base.epochs}
        stated = {"epochs": methods.finetune_epochs} if methods.finetune_epochs else {}
        if _auto.wanted(self.base.given, self.origin.dataset):
            choices = finetune_choices(images, unit, stated, self.weights)
            chosen = {choice.name: choice.value for choice in choices}
        chosen |= stated
        flags = {
            **chosen,  # all of it, so that a row of another rule is not taken for one of these
            **self._start(scratch),
            **self._data(),
            "label_percent": cell.percent,
            "label_draw": cell.draw,
            "seed": base.seed + cell.draw,
            "batch_size": min(chosen["batch_size"], max(unit, images // unit * unit)),
            # All labels train and none selects: a few images would select by chance
            "validation": "held_out",
            "val_fraction": 0.0,
            "eval_freq": chosen["epochs"],
            "device": self.recipe.machine.device,
            "precision": self.recipe.machine.precision,
        }
        # Many short runs: compiling each could take longer than it, unless it is asked for
        words = [*cli.words_of({"compile": False}), *self.words, *cli.words_of(flags)]
        return cli.parse(Finetuning, words)

    def _start(self, scratch: bool) -> dict[str, Any]:
        weights, network = self.recipe.weights, self.recipe.backbone.options()
        if not scratch:
            return {
                "scratch": False,
                "pretrained_weights": self.recipe.model,
                "checkpoint_key": weights.checkpoint_key,
                "trust_checkpoint": weights.trust_checkpoint,
                **network,
            }
        described = self.file.metadata.backbone
        names = [field.name for field in fields(BackboneSettings)]
        own = {name: described[name] for name in names if described.get(name) is not None}
        if self.base.augmentation.flip is None and never_mirrored(self.file.metadata):
            own["flip"] = 0.0  # as from the weights
        return {"scratch": True, "pretrained_weights": None, **network, **own}

    def _data(self) -> dict[str, Any]:
        """The images as the weights have them, also where a run starts without."""
        data, origin = self.recipe.data, self.origin
        flags: dict[str, Any] = {"dataset": origin.dataset, "datapath": origin.datapath}
        flags |= dict(origin.columns)
        for name in (*PIXEL_FLAGS, "stream", "workers"):
            if getattr(data, name) is not None:
                flags[name] = getattr(data, name)
        if origin.conversion.fit in FITS:
            flags["fit"] = origin.conversion.fit
        source_size = data.source_size or self.file.metadata.recipe.get("source_size")
        if source_size:
            flags["source_size"] = source_size
        return flags

    def run(
        self, recipe: Finetuning, cell: Cell, settings: dict[str, Any], images: int
    ) -> dict[str, Any]:
        """Test accuracies in percent after the last epoch. Interrupted where a signal stopped the run.

        Its folder is named after its settings, too: a run of others is not resumed.
        """
        kind = "scratch" if recipe.start.scratch else "pretrained"
        name = f"{kind}-{cell.percent:g}-{cell.draw}-{identity_of(settings)}"
        folder = self.folder / "finetune" / name
        recipe = replace(recipe, run=replace(recipe.run, output_dir=str(folder)))
        ranks.log(f"finetuning with {images} labels, what it says is in {folder / LOG}")
        with standard_error_to(folder / LOG):
            result = finetune.run(recipe)
        if result["status"] == "interrupted":
            raise Interrupted
        numbers = {name: round(result[f"test_{name}"], 3) for name in MEASURED}
        return {"images": images, **numbers, "seconds": result["seconds"]}


def settings_of(recipe: Finetuning) -> dict[str, Any]:
    """What a run's accuracy follows from."""
    left_out = (*Finetuning.OPERATIONAL, "pretrained_weights")
    own = {name: value for name, value in to_flags(recipe).items() if name not in left_out}
    return own | {"batch_size": recipe.optimisation.batch_size}
