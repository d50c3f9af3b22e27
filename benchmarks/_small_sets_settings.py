"""What benchmarks/small_sets.py compares: backbones, settings of stage one, and the epochs that a budget gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.recipes_cifar10 import STUDENT

BACKBONES = {
    "vit": STUDENT,
    "cct": "--arch cct_2_3x2_32 --image_size 32",
    "resnet": "--arch resnet8 --image_size 32",
}


@dataclass(frozen=True)
class Setting:
    """Flags of train_ssl.py, beside the images, the backbone, the epochs and the seed."""

    flags: str
    warmups: Mapping[str, float] = field(default_factory=dict)
    """Flags that count epochs, as shares of the run."""
    network: str | None = None
    """The setting that chooses parts of the network: then scratch and random weights are of that network, too."""


SETTINGS = {  # one's own images get --recipe auto where no recipe is named
    # The defaults: 30 and 10 of 200 epochs
    "published": Setting(
        "--recipe published --batch_size_per_gpu 64",
        {"warmup_epochs": 30 / 200, "warmup_teacher_temp_epochs": 10 / 200},
    ),
    # Head, loss and optimizer of the first version's shapes_ssl.yaml, whose warm-up was 1 of 8 epochs; default crops
    "shapes": Setting(
        "--recipe published --batch_size_per_gpu 64 --out_dim 256 --use_bn_in_head true --lr 4e-3 "
        "--weight_decay_end 0.04 --clip_grad 0.3 --warmup_teacher_temp_epochs 0 --teacher_temp 0.04 "
        "--momentum_teacher 0.996",
        {"warmup_epochs": 1 / 8},
    ),
    "auto": Setting("--recipe auto", network="auto"),
    # Labels in stage one, too
    "joint": Setting("--recipe auto --label_weight 1", network="auto"),
}


def epochs_of(shown: int, images: int) -> int:
    """Epochs in which about so many images are shown, at least one."""
    return max(1, round(shown / images))


def setting_flags(setting: Setting, epochs: int) -> str:
    """Its flags for a run of so many epochs; a warm-up is at least one of them, and none of a single one."""
    warmups = [
        f"--{name} {max(1, round(share * epochs)) if epochs > 1 else 0}"
        for name, share in setting.warmups.items()
    ]
    return " ".join([setting.flags, *warmups])


def equal_compute_epochs(pretraining: float, finetuning: float, epochs: int) -> int:
    """Epochs from scratch that take as many seconds as pretraining and a finetune of so many epochs.

    ValueError where the finetune took no measurable time.
    """
    if finetuning <= 0:
        raise ValueError("the finetune took no measurable time: raise --ft_images")
    return max(epochs, round(epochs * (pretraining + finetuning) / finetuning))
