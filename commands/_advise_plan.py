"""How units of compute become steps, epochs and flags of both stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multicrop.commands._advise_halving import Candidate, Round, units_of
from multicrop.commands._advise_images import Images
from multicrop.config import auto
from multicrop.config.advise import Recipe
from multicrop.config.auto_finetune import PLAIN, batch_size
from multicrop.config.backbone import BackboneSettings
from multicrop.engine import seeds
from multicrop.supervised import validation

HELD_OUT = 0.2  # of the training images judge; the same ones judge every candidate
# Half of the rest: the split draws each class's images in one order, so that these hold out those of HELD_OUT and more.
HELD_OUT_OF_HALF = HELD_OUT + (1 - HELD_OUT) / 2
# Share of a time that is given to steps; the rest is for reading, measuring and saving
TRAINED = 0.8
SHORT = {**PLAIN, "ra": 1, "warmup": 1}
"""Stage two without augmentation beyond shifts and flips: short runs do not need more."""


@dataclass(frozen=True)
class Plan:
    """What every trial of a call shares. Speeds are seconds of a step, by candidate and stage."""

    recipe: Recipe
    images: Images
    rounds: list[Round]

    def __post_init__(self) -> None:
        least = 2 * units_of(self.rounds)
        steps = self.recipe.steps
        if steps is not None and steps < least:
            raise ValueError(f"--steps {steps}: the trials need at least {least}, two a unit")
        if self.split(HELD_OUT)[1] == 0:
            raise ValueError(
                f"{self.images.path} has too few images to judge by: {HELD_OUT:.0%} of each class are none"
            )

    @property
    def unit(self) -> float:
        """Seconds, or steps where the budget is one of steps."""
        count = units_of(self.rounds)
        if self.recipe.steps is not None:
            return self.recipe.steps // count
        assert self.recipe.seconds is not None
        return TRAINED * self.recipe.seconds / count

    @property
    def course(self) -> int:
        """The units of a candidate that had the trials of all rounds one after the other: its whole budget."""
        return sum(entry.units for entry in self.rounds)

    def steps(self, units: float, speed: float | None) -> int:
        """Steps that fit into so many units."""
        steps = units * self.unit
        if self.recipe.steps is None:
            assert speed is not None
            steps /= speed
        return max(1, round(steps))

    def split(self, held_out: float) -> tuple[int, int]:
        """Images that train stage two, and that judge."""
        assert self.images.labels is not None
        random = seeds.generator(self.recipe.seed, "validation")
        chosen, judges = validation.split(self.images.labels, held_out, random)
        return len(chosen), len(judges)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch of stage one."""
        return max(1, self.images.facts.images // self.images.settings["batch_size_per_gpu"])

    def length(self, flags: dict[str, Any]) -> int:
        """Steps of a run with these flags."""
        per_epoch = self.per_epoch
        if "val_fraction" in flags:
            per_epoch = self.split(flags["val_fraction"])[0] // self.batch_size
        return flags.get("max_steps") or flags["epochs"] * per_epoch

    @property
    def batch_size(self) -> int:
        """Of stage two, as --recipe auto has it; half of the labels must fill a batch."""
        return min(batch_size(self.split(HELD_OUT)[0]), self.split(HELD_OUT_OF_HALF)[0])

    # Flags

    def folder(self, candidate: Candidate) -> Path:
        return Path(self.recipe.output_dir) / candidate.name

    def pretraining(self, candidate: Candidate, speed: float | None) -> dict[str, Any]:
        """Stage one over the candidate's whole budget: trials stop it early, and later ones go on with it."""
        epochs = -(-self.steps(self.course / 2, speed) // self.per_epoch)
        return {
            "recipe": "auto",
            **self.images.flags,
            "arch": self._arch(candidate),
            "epochs": epochs,
            "knn_freq": 0,
            "saveckp_freq": 0,
            **self._shared(),
            "output_dir": str(self.folder(candidate) / "ssl"),
        }

    def finetuning(
        self,
        candidate: Candidate,
        steps: int,
        teacher: str | None,
        name: str,
        held_out: float = HELD_OUT,
    ) -> dict[str, Any]:
        """Stage two of about so many steps, in whole epochs, in a folder of this name."""
        per_epoch = self.split(held_out)[0] // self.batch_size
        epochs = max(1, round(steps / per_epoch))
        start: dict[str, Any] = {"pretrained_weights": str(self.folder(candidate) / "ssl")}
        if not candidate.pretrains:
            start = {"scratch": True, **self._network(self._arch(candidate))}
        guide = {"teacher": teacher, "guidance": "linear"} if teacher else {}
        return {
            **self.images.flags,
            **start,
            **guide,
            **SHORT,
            "flip": self.images.settings["crop_flip"],
            "batch_size": self.batch_size,
            "epochs": epochs,
            # No epoch is selected: the last one counts
            "eval_freq": epochs,
            # A validation split of the data's own would not halve the labels
            "validation": "held_out",
            "val_fraction": held_out,
            **self._shared(),
            "output_dir": str(self.folder(candidate) / name),
            **({"max_steps": steps} if steps < per_epoch else {}),
        }

    def _arch(self, candidate: Candidate) -> str:
        """Of compact transformers the one that --recipe auto takes for these images."""
        own: str = self.images.settings["arch"]
        return own if auto.is_compact(candidate.arch) else candidate.arch

    def _network(self, arch: str) -> dict[str, Any]:
        """The backbone that --recipe auto makes in stage one."""
        return {
            choice.name: choice.value
            for choice in auto.network_choices(self.images.facts, {"arch": arch})
            if choice.name in BackboneSettings.__dataclass_fields__
            and (arch == "vit" or choice.name not in auto.SIZES_OF_VIT)
        }

    def _shared(self) -> dict[str, Any]:
        return {"seed": self.recipe.seed, "device": self.recipe.device}
