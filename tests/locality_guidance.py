"""The recorded numbers of the locality-guidance code: the form of its checkpoints, the rule of full-size weights."""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from conftest import GOLDEN
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from multicrop import registry
from multicrop.commands._networks import fill_backbone
from multicrop.weights import pretrained

COMMITTED = GOLDEN / "locality_guidance"
SHARED = "locality_guidance"


def recorded(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, of either kind; text stays text."""
    if path.suffix == ".safetensors":
        return load_file(path)
    with np.load(path) as file:
        return {
            name: str(file[name]) if file[name].dtype.kind == "U" else torch.from_numpy(file[name])
            for name in file
        }


def recording(recordings: Path, stem: str) -> dict[str, Tensor]:
    """The tensors of the file of this name in either set: .npz here, .safetensors in the full one."""
    (path,) = (recordings / SHARED).glob(f"{stem}.*")
    return recorded(path)


def training_pieces(recordings: Path) -> dict[str, Tensor]:
    """Mixed batches, a smoothed loss, one averaging and learning rates: two files here, one in the full set."""
    full = recordings / SHARED / "training_pieces.safetensors"
    if full.is_file():
        with safe_open(full, "pt") as file:
            alpha = json.loads(file.metadata()["ema"])["alpha"]
        return load_file(full) | {"ema/alpha": torch.tensor(alpha, dtype=torch.float64)}
    mixing = {}
    for name, value in recording(recordings, "mixing").items():
        kind, _, what = name.partition("_")
        mixing[f"{kind}/{what}" if kind in ("ce", "mixup", "cutmix") else f"mix/{name}"] = value
    return mixing | recording(recordings, "schedules")


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def classifier(
    arch: str, state: dict[str, Tensor], folder: Path, **options
) -> tuple[nn.Module, nn.Linear]:
    """Backbone and classifier read from a file of the published form by the users' own route; all must be filled."""
    saved = {
        "epoch": 299,
        "test_err": 21.5,
        "ema_err": 100.0,
        "model_state": state,
        "optimizer_state": {},
        "cfg": "A: 1",
    }
    torch.save(saved, folder / "model.pyth")
    file = pretrained.read(folder / "model.pyth")
    backbone = registry.backbone(arch, **options).eval()
    fill_backbone(backbone, file, arch, strict=True)
    head = nn.Linear(backbone.dim, len(file.head["bias"]))
    head.load_state_dict(file.head)
    return backbone, head


def check_small(tensors: dict[str, Tensor], backbone: nn.Module, head: nn.Linear) -> None:
    """Logits by both routes, every block's map and, where recorded, the gradient on the images."""
    x = tensors["input"].clone().requires_grad_()
    features, maps = backbone.forward_maps(x)
    close(head(features), tensors["logits"])
    close(head(backbone(x)), tensors["logits"])
    for index, theirs in part(tensors, "feature/").items():
        close(maps[f"blocks.{index}"], theirs)
    if "grad_probe" in tensors:
        (gradient,) = torch.autograd.grad((head(features) * tensors["grad_probe"]).sum(), x)
        close(gradient, tensors["grad_input"])


def check_full_size(
    family: str,
    arch: str,
    folder: Path,
    file: str = "full_size_pit_convit_cvt.npz",
    constant: str = "",
) -> None:
    """Logits and corners of the guided maps of a published size at 224 px, its weights filled by the rule.

    `constant` names a tensor of the file that the rule leaves alone.
    """
    tensors = part(recorded(COMMITTED / file), f"{family}/")
    state = rule_filled(json.loads(tensors.pop("keys")))
    state.pop(constant, None)
    backbone, head = classifier(arch, state, folder)
    with torch.no_grad():
        features, maps = backbone.forward_maps(full_size_images())
    close(head(features), tensors["logits"], 1e-4)
    for index in {name.split("_")[1] for name in part(tensors, "") if name.startswith("feature_")}:
        ours = maps[f"blocks.{index}"]
        close(ours[:, :4, :4, :4], tensors[f"feature_{index}_corner"], 1e-4)
        close(ours.abs().mean(), tensors[f"feature_{index}_meanabs"], 1e-4)


def full_size_images() -> Tensor:
    return torch.from_numpy(np.random.RandomState(7).standard_normal((2, 3, 224, 224))).float()


def rule_filled(shapes: dict[str, list[int]], base: int = 1000) -> dict[str, Tensor]:
    """A state dict of these names and shapes with the values that the recording's rule gives."""
    state = {}
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        drawn = np.random.RandomState(base + index).standard_normal(math.prod(shape)).reshape(shape)
        if not name.endswith("num_batches_tracked"):
            state[name] = torch.from_numpy(np.asarray(_value(name, drawn))).float()
    return state


def _value(name: str, drawn: np.ndarray) -> np.ndarray:
    last = name.rpartition(".")[2]
    if last == "running_mean":
        return 0.1 * drawn
    if last == "running_var":
        return 1 + 0.2 * abs(drawn)
    if drawn.ndim == 1 and last == "weight":
        return 0.2 + 0.05 * drawn if name.endswith("b_bn.weight") else 1 + 0.1 * drawn
    if drawn.ndim == 1:
        return 0.1 * drawn
    if last == "cls_token" or last.startswith("pos_embed"):
        return 0.02 * drawn
    return drawn / math.sqrt(math.prod(drawn.shape[1:]))
