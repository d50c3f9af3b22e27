"""Whole optimisation steps through pretrain.update, against steps recorded from the published code."""

import json

import pytest
import torch
from conftest import recipe
from safetensors import safe_open
from safetensors.torch import load_file

from multicrop.commands import pretrain
from multicrop.commands._student import TrainState
from multicrop.config.pretrain import Recipe
from multicrop.engine import optim
from multicrop.engine.parameter_groups import parameter_groups
from multicrop.registry import backbone
from multicrop.ssl.crops import Crops
from multicrop.ssl.encoder import Encoder
from multicrop.ssl.head import Head
from multicrop.ssl.objectives.dino import Objective
from multicrop.ssl.teacher import teacher_of


def networks(c: dict) -> TrainState:
    body = backbone(
        "vit", c["img_size"], patch_size=c["patch_size"], embed_dim=c["embed_dim"], num_layers=c["depth"],
        num_heads=c["num_heads"], vit_mlp_ratio=c["mlp_ratio"], drop_path_rate=0.0,
    )  # fmt: skip
    h = c["head"]
    student = Encoder(
        body,
        Head(h["in_dim"], h["out_dim"], hidden=h["hidden_dim"], bottleneck=h["bottleneck_dim"]),
    )
    optimizer = optim.build_optimizer(c["optimizer"], parameter_groups(student))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainState(
        student, teacher_of(student), student, Objective(h["out_dim"]), optimizer, scaler
    )


def weights(tensors: dict, prefix: str) -> dict:
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return {name.replace("mlphead.", "head."): value for name, value in found.items()}


def crops_of(tensors: dict, step: int) -> Crops:
    crops = [tensors[f"step{step}.crop_{i}"] for i in range(4)]
    return Crops(torch.stack(crops[:2]), torch.stack(crops[2:]))


@pytest.fixture
def recorded(recordings):
    """All three optimizers' steps: one file here; three in the full set, which begin alike and hold more."""
    folder = recordings / "two_stage_ssl"
    if (folder / "train_steps.safetensors").is_file():
        return load_file(folder / "train_steps.safetensors"), metadata(
            folder / "train_steps.safetensors"
        )
    tensors, about = {}, {}
    for name in ("sgd", "lars", "adamw"):
        file = folder / f"train_step_{name}.safetensors"
        about |= {f"{name}.{key}": value for key, value in metadata(file).items()}
        for key, value in load_file(file).items():
            common = key.startswith("init.") or ".crop_" in key
            assert not common or torch.equal(tensors.get(key, value), value)
            tensors[key if common else f"{name}.{key}"] = value
    return tensors, about


def metadata(file) -> dict[str, str]:
    return safe_open(file, "pt").metadata()


def start(tensors: dict, about: dict, name: str) -> tuple[TrainState, dict, list]:
    config, steps = json.loads(about[f"{name}.config"]), json.loads(about[f"{name}.steps"])
    nets = networks(config)
    nets.student.load_state_dict(weights(tensors, "init.student."))
    nets.teacher.load_state_dict(weights(tensors, "init.teacher."))
    nets.objective.centre.copy_(tensors["init.center"][0])
    return nets, config, steps


class Watched:
    """What one step computes on its way, in the words of the full set: outputs, gradients before and after the cap."""

    def __init__(self, nets: TrainState, monkeypatch) -> None:
        self.nets, self.seen, self.clip_per_parameter = nets, {}, optim.clip_per_parameter
        for which in ("student", "teacher"):
            network = getattr(nets, which)
            network.register_forward_hook(
                lambda module, inputs, out, which=which: self.keep(f"{which}_out", out.outputs)
            )
        monkeypatch.setattr(optim, "clip_per_parameter", self.clip)

    def keep(self, name: str, value: torch.Tensor) -> None:
        self.seen[name] = value.detach().flatten(0, -2).clone()

    def clip(self, parameters, cap: float) -> torch.Tensor:
        self.keep_gradients("grad_raw")
        norm = self.clip_per_parameter(parameters, cap)
        self.keep_gradients("grad_clipped")
        return norm

    def keep_gradients(self, kind: str) -> None:
        named = self.nets.student.named_parameters()
        self.seen |= {f"{kind}.{name}": p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_steps_are_the_published_ones(recorded, name, monkeypatch):
    tensors, about = recorded
    nets, config, steps = start(tensors, about, name)
    watched = Watched(nets, monkeypatch)
    norms, count = json.loads(about[f"{name}.grad_norms"]), 3 if name == "adamw" else 2
    for k, s in enumerate(steps[:count]):
        rates = pretrain.Rates(s["lr"], s["wd"], s["momentum"])
        schedule = {"teacher_temp": s["teacher_temp"], "frozen": s["epoch"] < 1}
        settings = recipe(Recipe, clip_grad=config["clip_grad"])
        seen = pretrain.update(nets, [crops_of(tensors, k)], rates, schedule, settings, None, k)
        inside = weights(tensors, f"{name}.step{k}.")
        if "student_out" in inside:  # in the full set, of AdamW
            assert len(watched.seen) == 2 + 2 * 37
            for key, value in watched.seen.items():
                torch.testing.assert_close(
                    value, inside[key], atol=1e-5, rtol=0, msg=f"step {k}, {key}"
                )
        assert seen.loss.item() == pytest.approx(s["loss"], abs=1e-5)
        assert seen.grad_norm.item() == pytest.approx(
            torch.tensor(norms[k]).norm().item(), rel=1e-4
        )
        torch.testing.assert_close(
            nets.objective.centre, tensors[f"{name}.step{k}.center"][0], atol=1e-5, rtol=0
        )
        for which in ("student", "teacher"):
            theirs = weights(tensors, f"{name}.step{k}.{which}.")
            ours = getattr(nets, which).state_dict()
            for parameter, value in theirs.items():
                torch.testing.assert_close(
                    ours[parameter], value, atol=1e-5, rtol=0, msg=f"{which} {parameter}"
                )
        assert theirs or k < count - 1  # the weights of the last step are recorded for all


def test_accumulated_batches_take_the_step_of_their_union(recorded):
    """SGD, because the first steps of Adam are signs of gradients and magnify rounding."""
    tensors, about = recorded
    results = []
    for parts in (1, 2):
        nets, _, _ = start(tensors, about, "sgd")
        rates = pretrain.Rates(0.1, 0.0, 0.9)
        schedule = {"teacher_temp": 0.05, "frozen": False}
        settings = recipe(Recipe, clip_grad=3.0, accumulate=parts)
        whole = crops_of(tensors, 0)
        cuts = [Crops(*(v.chunk(parts, dim=1)[i] for v in whole[:2])) for i in range(parts)]
        seen = pretrain.update(nets, cuts, rates, schedule, settings, None, 0)
        results.append((seen.loss, nets.objective.centre, *nets.student.state_dict().values()))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=0)


def test_a_teacher_is_quiet_unless_the_published_noise_is_asked_for():
    body = backbone("vit", 32, embed_dim=24, num_layers=2, num_heads=2, drop_path_rate=0.9)
    student = Encoder(body, Head(24, 16, hidden=8, bottleneck=4)).train()
    crops = torch.randn(2, 8, 3, 32, 32)
    quiet, noisy = teacher_of(student), teacher_of(student, drop_path=True)
    assert torch.equal(quiet(crops).outputs, quiet(crops).outputs)
    assert not torch.equal(noisy(crops).outputs, noisy(crops).outputs)
    assert not any(p.requires_grad for p in quiet.parameters())
