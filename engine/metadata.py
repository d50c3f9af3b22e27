"""The one schema of our checkpoints: what a file says about itself, apart from the states that it holds.

A file is a dictionary: "metadata", and the state dict of each part of the run by its name. Files from before this
schema had the same facts side by side with the states; they are read as well.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

IDENTITY = (
    "global_batch", "images", "steps_per_epoch", "pixels", "labels", "teacher", "size", "batch_norm",
)  # fmt: skip


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint says about itself; plain values only.

    kind: "ssl" or "finetune". step, epoch: when it was saved. recipe: every flag of its run. backbone: arguments of
    registry.backbone that build its network again. data: its data set's name, classes, mean and std, and how its files
    became pixels (fit, channels, value_range). identity: what its images' order and its targets follow from
    (engine/run.py). ancestry: what it began from, the oldest first. calibration: of each network of the file ("model",
    "average") the temperature that its validation images ask for; empty where none was fitted on these weights.
    unlogged: losses in nats of the steps since the last row of metrics, with which the next row's mean begins (None:
    of an older version, which did not keep them). images_read: of streamed images how many the run had read by then.
    """

    kind: str
    step: int = 0
    epoch: float = 0.0
    recipe: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    ancestry: list[dict[str, Any]] = field(default_factory=list)
    calibration: dict[str, Any] = field(default_factory=dict)
    unlogged: list[float] | None = None
    images_read: int | None = None

    def at(
        self,
        step: int,
        epoch: float,
        calibration: dict[str, Any] | None = None,
        unlogged: Sequence[float] = (),
    ) -> "Metadata":
        """The same at another time of the run, with the calibration of the weights of that time."""
        calibration = calibration or {}
        return replace(
            self, step=step, epoch=epoch, calibration=calibration, unlogged=list(unlogged)
        )

    def descending(self, weights: str, origin: "Metadata") -> "Metadata":
        """The same of a run that began from weights, which is what they were called, with their own ancestry."""
        ancestor = {
            "weights": weights,
            "kind": origin.kind,
            "dataset": origin.data.get("dataset"),
            "images": origin.identity.get("images"),
            "step": origin.step,
            "epoch": origin.epoch,
        }
        return replace(self, ancestry=[*origin.ancestry, ancestor])

    @property
    def fit(self) -> str:
        """How image files of another shape were brought to its images' shape; empty where these were no files."""
        if not self.data:
            return ""
        return self.data.get("fit", "crop") or ""  # older versions knew no other

    @property
    def resample(self) -> Literal["bicubic", "bilinear"]:
        """How whole images of another size are brought to the network's by its accuracies."""
        return self.data.get("resample", "bicubic")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Metadata":
        """Names that this version does not know are left out, and what is missing has its default."""
        names = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint: its metadata and the states of its parts (student, teacher, optimizer, ... or model, ...)."""

    metadata: Metadata
    state: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The content of a file."""
        return {"metadata": self.metadata.to_dict(), **self.state}

    @classmethod
    def from_dict(cls, content: Any) -> "Checkpoint":
        """ValueError where a file's content is not one of our checkpoints."""
        if not is_ours(content):
            raise ValueError("not a multicrop checkpoint")
        if "metadata" in content:
            state = {name: part for name, part in content.items() if name != "metadata"}
            return cls(Metadata.from_dict(content["metadata"]), state)
        return _from_flat(content)


def is_ours(content: Any) -> bool:
    """Whether a file's content is one of our checkpoints, of this schema or of the one before."""
    if not isinstance(content, dict):
        return False
    metadata = content.get("metadata", content)
    return isinstance(metadata, dict) and "kind" in metadata


def _from_flat(content: dict[str, Any]) -> Checkpoint:
    """A file from before this schema. There `teacher` was a network in stage one and a hash in stage two."""
    identity, state = {}, {}
    names = {item.name for item in fields(Metadata)}
    for name, value in content.items():
        if name in IDENTITY and not isinstance(value, dict):
            identity[name] = value
        elif name not in names:
            state[name] = value
    return Checkpoint(Metadata.from_dict({**content, "identity": identity}), state)
