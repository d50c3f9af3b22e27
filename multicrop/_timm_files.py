"""Files of weights for timm's models: what a file says goes into the model and into timm's description of it."""

from pathlib import Path
from typing import Any

import torch.nn as nn
from timm.models import resolve_pretrained_cfg
from torch import Tensor

from . import registry
from ._timm_model import PREFIX
from .config.sizes import height_width, shortest
from .engine import ranks
from .weights import pretrained, published
from .weights.pretrained import Pretrained

NOT_BACKBONE_OPTIONS = (
    "arch",
    "image_size",
    "in_channels",
    "drop_rate",
    "drop_path_rate",
    "patch_drop_rate",
)
CROP_MODES = {"crop": "center", "pad": "border", "squeeze": "squash", "": "squash"}
"""timm's words for how images of another shape are brought to the network's; "" is of images that were no files."""


def named_file(name: str, options: dict[str, Any]) -> str | None:
    """The file or run folder that timm.create_model's options name; None where weights come from elsewhere.

    Where they name nothing, the first published file of that architecture.
    """
    config = resolve_pretrained_cfg(
        name, options.get("pretrained_cfg"), options.get("pretrained_cfg_overlay")
    )
    if config.state_dict or config.source in ("local-dir", "hf-hub"):
        return None
    if not config.has_weights:
        return published.first_of(name.removeprefix(PREFIX))
    return config.file


def model_options(arch: str, file: Pretrained, img_size: Any = None) -> dict[str, Any]:
    """The options of timm.create_model that build the network of one of our checkpoints; {} for other files.

    img_size: what the user gives for it, in pixels.

    ValueError where it was made with another family of backbones than `arch`.
    """
    described = file.metadata.backbone
    if not described:
        return {}
    ours, theirs = registry.architecture(arch), registry.architecture(described["arch"])
    if ours.module is not theirs.module:
        raise ValueError(f"{file.path} was made with --arch {described['arch']}, not with {arch}")
    options = {} if ours == theirs else dict(theirs.options)
    options |= described
    size, channels = described.get("image_size"), described.get("in_channels")
    is_other = img_size is not None and (size is None or shortest(img_size) != shortest(size))
    if is_other:  # a patch size may follow from the file's
        options["patch_size"] = getattr(registry.backbone(**described), "patch_size", None)
    options = {key: options[key] for key in options if key not in NOT_BACKBONE_OPTIONS}
    options |= {"img_size": size, "in_chans": channels}
    return {key: value for key, value in options.items() if value is not None}


def described(file: Pretrained) -> dict[str, Any]:
    """What a file says of itself in the words of timm's pretrained_cfg: images, classes and their names."""
    data, options = file.metadata.data, file.metadata.backbone
    facts: dict[str, Any] = {}
    if data:
        facts["mean"], facts["std"] = tuple(data["mean"]), tuple(data["std"])
        facts["crop_pct"] = data.get("crop_pct") or 1.0
        facts["interpolation"], facts["crop_mode"] = "bicubic", CROP_MODES[file.metadata.fit]
    if options.get("image_size"):
        size = height_width(options["image_size"])
        facts["input_size"] = (options.get("in_channels", 3), *size)
    if file.head:
        facts["num_classes"] = len(file.head["weight"])
        if data.get("classes"):
            facts["label_names"] = tuple(data["classes"])
    return facts


def fill(model: Any, file: Pretrained) -> None:
    """Copy a file's backbone and classifier into a TimmModel, and say what was copied and what was not.

    ValueError where the file leaves a parameter of the backbone without a value.
    """
    adapt = registry.adapter(model.arch, file.metadata.backbone.get("image_size"))
    pretrained.fill(model.backbone, file, model.arch, adapt, strict=True)
    model.load_state_dict(heads(model, file), strict=False)


def checkpoint_filter_fn(state: dict, model: Any) -> dict[str, Tensor]:
    """What timm read from a folder, the hub or a state dict -> `backbone.*` and `head.*` for a TimmModel.

    A file without a classifier, or with one of other classes, leaves the model's own.
    """
    file = pretrained.of_content(state, Path("the file"))
    adapt = registry.adapter(model.arch, file.metadata.backbone.get("image_size"))
    file.choose(model.backbone, adapt)
    backbone = adapt(file.backbone, model.backbone) if adapt else file.backbone
    weights = {f"backbone.{name}": value for name, value in backbone.items()}
    return weights | heads(model, file)


def heads(model: Any, file: Pretrained) -> dict[str, Tensor]:
    """The classifiers of a TimmModel from a file where they fit, else the model's own, which is said.

    A file's only one is for both tokens of a backbone that has a distillation token: they were averaged before it.
    """
    if not model.num_classes:
        return {}
    own = {}
    for name, value in model.state_dict().items():
        if name.startswith(("head.", "distill_head.")):
            own[name] = value
    if not file.head:
        ranks.log(f"{file.path} has no classifier: the model's is as initialised")
        return own
    classes = len(file.head["weight"])
    if classes != model.num_classes:
        ranks.log(
            f"{file.path}: its classifier of {classes} classes stays out, "
            f"since the model has {model.num_classes}: the model's is as initialised"
        )
        return own
    found = {f"head.{name}": value for name, value in file.head.items()}
    if model.distilled:
        second = file.second_head or file.head
        found |= {f"distill_head.{name}": value for name, value in second.items()}
    elif file.second_head:
        ranks.log(f"{file.path}: its second classifier stays out, since {model.arch} has one token")
    return own | found


def as_timms_own(file: Pretrained) -> nn.Module:
    """One of our checkpoints of --arch timm:<name> as timm's own model, in evaluation mode.

    ValueError where it standardises images, which timm's does not, or where timm's classifier is no linear layer.
    """
    options = file.metadata.backbone
    arch = options["arch"]
    if options.get("standardise"):
        raise ValueError(
            f"{file.path} was made with --standardise, which timm's own model cannot do: use multicrop.load_classifier"
        )
    model: Any = registry.backbone(**options)
    adapt = registry.adapter(arch, options.get("image_size"))
    pretrained.fill(model, file, arch, adapt, strict=True, quiet=True)
    if file.head:
        _replace_classifier(model, file)
    facts = {"architecture": arch.partition(":")[2], "file": str(file.path), "source": "file"}
    published = ("url", "hf_hub_id", "hf_hub_filename", "tag", "license", "origin_url")
    config = {
        name: model.pretrained_cfg[name] for name in model.pretrained_cfg if name not in published
    }
    model.pretrained_cfg = model.default_cfg = config | described(file) | facts
    return model.eval()


def _replace_classifier(model: Any, file: Pretrained) -> None:
    model.reset_classifier(len(file.head["weight"]))
    classifiers = model.get_classifier()
    if not isinstance(classifiers, tuple):
        classifiers = (classifiers,)
    for classifier in classifiers:  # of two, whose logits are averaged, both are the one
        if (
            not isinstance(classifier, nn.Linear)
            or classifier.weight.shape != file.head["weight"].shape
        ):
            raise ValueError(
                f"{file.path}: timm's {type(model).__name__} has no place for a linear classifier: "
                "use multicrop.load_classifier"
            )
        classifier.load_state_dict(file.head)
