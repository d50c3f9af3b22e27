"""The command line that makes a run again, for whoever reads its model card: without the paths of its machine."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from multicrop.config.backbone import BackboneSettings
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.flags import changed_flags, from_flags, typed
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine.metadata import Metadata

OF_THE_MACHINE = (
    "output_dir", "device", "workers", "download", "stream", "log", "log_freq", "save_steps", "saveckp_freq",
    "resume_changed_data", "minutes",
)  # fmt: skip
"""Flags that do not change what is learned, or whose effect another flag holds."""
PATHS = ("datapath", "knn_datapath", "pretrained_weights", "teacher", "guidance_features")
"""Flags of which the last part of the path is written: the rest says where things were on that machine."""


def command_of(metadata: Metadata) -> str:
    """One line for a shell, of a checkpoint's metadata."""
    name, flags = "finetune", _finetune_flags(metadata)
    if metadata.kind != "finetune":
        name, flags = "pretrain", _pretrain_flags(metadata)
    words = []
    for flag, value in flags.items():
        if flag in PATHS and value:
            value = ",".join(Path(path).name or path for path in value.split(","))
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{flag}", *(shlex.quote(typed(item)) for item in values)]
    return " ".join(["multicrop", name, *words])


def _finetune_flags(metadata: Metadata) -> dict[str, Any]:
    """With the network, the size and the form of the images, which the run may have taken from its weights."""
    stored = Finetuning.ADDED | metadata.recipe
    network = [field.name for field in fields(BackboneSettings)]
    inherited = {name: metadata.backbone[name] for name in network if name in metadata.backbone}
    drop_rate = metadata.backbone.get("drop_rate")
    if drop_rate is not None and stored.get("drop_rate") is None:
        inherited["drop_rate"] = drop_rate
    return _stated(Finetuning, stored | inherited | _form_of_images(metadata))


def _pretrain_flags(metadata: Metadata) -> dict[str, Any]:
    """--recipe published: what is not named has its default, also for one's own images."""
    stored = Pretraining.ADDED | metadata.recipe
    total = metadata.identity.get("global_batch")
    if total:  # of all processes
        stored = stored | {"batch_size_per_gpu": total // stored.get("accumulate", 1)}
    flags = _stated(Pretraining, stored | _form_of_images(metadata))
    return {"recipe": "published", **flags}


def _stated(recipe_type: Any, values: dict[str, Any]) -> dict[str, Any]:
    flags = changed_flags(from_flags(recipe_type, values))
    if flags.get("extend_epochs"):
        flags.pop("epochs", None)  # the same number
    return {name: value for name, value in flags.items() if name not in OF_THE_MACHINE}


def _form_of_images(metadata: Metadata) -> dict[str, Any]:
    """How image files became pixels: what was chosen for them, or by the weights. Ranges are measured again."""
    described = {name: metadata.data.get(name) for name in ("fit", "channels")}
    return {name: str(value) for name, value in described.items() if value is not None}
