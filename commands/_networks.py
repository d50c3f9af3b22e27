"""Backbones from files: which architecture, filled with what."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn

from multicrop import registry
from multicrop.augment.evaluation import EvalTransform
from multicrop.config.backbone import BackboneSettings
from multicrop.config.flags import typed
from multicrop.config.sizes import ImageSize
from multicrop.engine import ranks
from multicrop.engine.metadata import Metadata
from multicrop.supervised.classifier import Classifier
from multicrop.weights import pretrained
from multicrop.weights.candidates import ADAPT_ERRORS, StateDict
from multicrop.weights.loading import SizesDiffer
from multicrop.weights.pretrained import Pretrained


def network_options(stated: BackboneSettings, file: Pretrained) -> dict[str, Any]:
    """What a file says of its network, else flags. ValueError where these contradict it."""
    described, flags = file.metadata.backbone, stated.options()
    for name, value in flags.items():
        if described.get(name, value) != value:
            raise ValueError(
                f"--{name} {value}, but {file.path} was made with {described[name]}: leave the flag out"
            )
    return {**flags, **described}


def check_channels(file: Pretrained, channels: int, own: int | None = None) -> None:
    """ValueError unless a file's network takes images of so many channels. own: how many if it does not say."""
    own = file.metadata.backbone.get("in_channels", own or channels)
    if own == channels:
        return
    remedy = f"give images of {own} channels, or weights for {channels}"
    if own in (1, 3):
        remedy = f"of image files --channels {own} makes such"
    noun = "channel" if own == 1 else "channels"
    raise ValueError(
        f"{file.path} is for images of {own} {noun}, and these have {channels}: {remedy}"
    )


def fill_backbone(
    backbone: nn.Module,
    file: Pretrained,
    arch: str,
    strict: bool = False,
    quiet: bool = False,
    options: dict[str, Any] | None = None,
) -> None:
    """Copy a file's backbone by name, in the words of the architecture, and say what was copied unless quiet.

    ValueError where nothing fits, or with strict=True where the file leaves a parameter without a value. Without it the
    network is one to be trained, and its classifier a new one. options: of registry.backbone that flags can change, for
    what is said of sizes that differ.
    """
    adapt = registry.adapter(arch, file.metadata.backbone.get("image_size"))
    try:
        pretrained.fill(backbone, file, arch, adapt, strict, quiet)
    except SizesDiffer as error:
        remedy = "it is a network of other sizes"
        if options:
            flags = fitting_sizes(options, file.backbone, error)
            remedy = "leave out flags and recipe keys of the backbone, or give the --arch it was made with"
            if flags:
                words = " ".join(f"--{name} {typed(value)}" for name, value in flags.items())
                remedy = f"{words} would fit"
        raise ValueError(f"{error}; {remedy}") from None
    if file.head and not strict and not quiet:
        classes = len(file.head["weight"])
        ranks.log(f"  its classifier of {classes} classes stays out: a new one is trained")
    if file.second_head and strict and not quiet and not hasattr(backbone, "forward_tokens"):
        ranks.log(f"  its second classifier stays out: --arch {arch} gives one token")


def fitting_sizes(options: dict[str, Any], state: StateDict, differ: SizesDiffer) -> dict[str, Any]:
    """The flags of sizes, and their values, with which a network would have a file's shapes; {} where none are found.

    Found by building networks, without memory, with the numbers that are in the shapes.
    """
    numbers = sorted({number for tensor in differ.misshapen for number in tensor.in_file})
    module, own = registry.architecture(options["arch"])
    tries: dict[str, list[Any]] = {
        "embed_dim": numbers, "patch_size": numbers, "vit_mlp_ratio": [1.0, 2.0, 3.0, 4.0]
    }  # fmt: skip
    if own and ":" not in options["arch"]:  # one of the sizes that a family has names for
        others = registry.variants().items()
        tries["arch"] = [name for name, other in others if other is module]
    chosen: dict[str, Any] = {}
    least = len(differ.misshapen)
    for _ in tries:
        counts: dict[tuple[str, Any], Fit] = {}
        for name in tries.keys() - chosen.keys():
            for value in tries[name]:
                fit = _fit({**options, **chosen, name: value}, state)
                if fit is not None:
                    counts[name, value] = fit
        if not counts:
            return {}
        (name, value), best = min(counts.items(), key=lambda count: count[1])
        if best.misshapen >= least:
            return {}
        least, chosen = best.misshapen, {**chosen, name: value}
        if least == 0:
            return chosen
    return {}


class Fit(NamedTuple):
    """How a state dict differs from a network; the least is the best."""

    misshapen: int
    others: int  # names that one of them alone has


def _fit(options: dict[str, Any], state: StateDict) -> Fit | None:
    """Of a network of these options; None where there is no such network."""
    try:
        with torch.device("meta"):
            network = registry.backbone(**options)
        adapt = registry.adapter(options["arch"])
        if adapt:
            state = adapt(dict(state), network)
    except (*ADAPT_ERRORS, NotImplementedError):
        return None
    own = network.state_dict()
    both = own.keys() & state.keys()
    return Fit(
        sum(own[name].shape != state[name].shape for name in both),
        len(own.keys() ^ state.keys()),
    )


def count_weights(options: dict[str, Any]) -> int | None:
    """Of a backbone, without making it; None where a library needs its values to make it."""
    try:
        with torch.device("meta"):
            network = registry.backbone(**options)
    except (*ADAPT_ERRORS, NotImplementedError):
        return None
    return sum(parameter.numel() for parameter in network.parameters())


def backbone_of(file: Pretrained, quiet: bool = False) -> nn.Module:
    """The backbone that a checkpoint of ours describes, filled with it."""
    options = file.metadata.backbone
    backbone = registry.backbone(**options)
    fill_backbone(backbone, file, options["arch"], strict=True, quiet=quiet)
    return backbone


def build_teacher_backbone(
    file: Pretrained, arch: str | None, image_size: ImageSize | None, channels: int
) -> tuple[nn.Module, ImageSize]:
    """The backbone of a teacher's file, filled with it, and the size in pixels at which it sees images.

    What is given goes before what the file says; an image size that neither says is the architecture's own. ValueError
    where the file does not say its architecture, or leaves a parameter without a value.
    """
    described = file.metadata.backbone
    if not (arch or described):
        raise ValueError(f"{file.path} does not say its architecture: give --teacher_arch")
    if (
        arch
        and described
        and registry.architecture(arch) != registry.architecture(described["arch"])
    ):
        raise ValueError(f"{file.path} was made with {described['arch']}, not with {arch}")
    check_channels(file, channels)
    options = {
        "arch": arch,
        **described,
        "in_channels": channels,
        "drop_rate": 0.0,
        "drop_path_rate": 0.0,
    }
    size = image_size or options.get("image_size") or registry.own_image_size(options["arch"])
    if size is None:
        raise ValueError(
            f"{file.path} does not say the size of its images: give --teacher_image_size"
        )
    backbone = registry.backbone(**options | {"image_size": size})
    fill_backbone(backbone, file, options["arch"], strict=True)
    return backbone, size


def load_backbone(path: str | Path, key: str = "teacher") -> nn.Module:
    """The backbone of one of our checkpoints in evaluation mode, with what `transform_of` needs to know.

    ValueError for a file of another program, which does not say its architecture.
    """
    file = pretrained.read(path, key)
    backbone = _described_backbone(file).eval()
    return _with_image_facts(backbone, file)


def load_classifier(path: str | Path, key: str = "teacher") -> Classifier:
    """The whole network of a finetuned checkpoint in evaluation mode, with what `transform_of` needs to know.

    ValueError for a file of another program, or of stage one, which has no classifier.
    """
    file = pretrained.read(path, key)
    backbone = _described_backbone(file)
    if not file.head:
        raise ValueError(f"{file.path} has no classifier: it is of stage one")
    classifier: Any = Classifier(backbone, len(file.head["weight"]))
    classifier.load_heads(file.head, file.second_head)
    classifier.classes = tuple(file.metadata.data.get("classes", ()))
    return _with_image_facts(classifier.eval(), file)


def _described_backbone(file: Pretrained) -> nn.Module:
    if not file.metadata.backbone:
        raise ValueError(
            f"{file.path} is not one of our checkpoints and does not say its architecture: build the network with "
            "timm.create_model or multicrop.registry.backbone, and load the file into it"
        )
    return backbone_of(file, quiet=True)


def _with_image_facts(network: Any, file: Pretrained) -> Any:
    """The network, which now has image_size, mean, std, crop_pct and fit of the images that it was trained on."""
    network.image_size = file.metadata.backbone["image_size"]
    network.mean, network.std, network.crop_pct, network.fit = image_facts(file.metadata)
    return network


def image_facts(
    metadata: Metadata,
) -> tuple[tuple[float, ...], tuple[float, ...], float | None, Any]:
    """Mean, std, crop_pct and fit of the images that a network was trained on, as it sees all others."""
    data = metadata.data
    return tuple(data["mean"]), tuple(data["std"]), data.get("crop_pct"), metadata.fit or "squeeze"


def transform_of(network: Any) -> EvalTransform:
    """What a loaded backbone or classifier sees of uint8 images (B, C, H, W)."""
    return EvalTransform(
        network.image_size, network.mean, network.std, crop_pct=network.crop_pct, fit=network.fit
    )
