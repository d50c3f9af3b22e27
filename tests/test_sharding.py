"""engine/sharding.py: two ranks with shares of the networks do what two ranks with copies of them do."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT, launch, recipe, rows_of, same
from PIL import Image
from torch import nn

from multicrop.commands import pretrain
from multicrop.config.pretrain import Recipe
from multicrop.engine import checkpoint, sharding

RUNS = """
import json, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from conftest import recipe
from multicrop.commands import pretrain
from multicrop.config.pretrain import Recipe
from multicrop.engine import ranks
for values in json.loads(sys.argv[1]):
    pretrain.run(recipe(Recipe, **values))
ranks.stop()
"""
# SGD, because the first steps of Adam are signs of gradients and magnify rounding
VALUES = {
    "embed_dim": 24, "num_layers": 2, "num_heads": 2, "out_dim": 33, "head_hidden_dim": 16, "head_bottleneck_dim": 8,
    "use_bn_in_head": True, "norm_last_layer": False, "local_crops_number": 2, "label_weight": 0.5, "epochs": 2,
    "warmup_epochs": 1, "warmup_teacher_temp_epochs": 1, "knn_freq": 2, "log_freq": 1, "dataset": "image_folder",
    "device": "cpu", "image_size": 16, "batch_size_per_gpu": 1, "accumulate": 2, "optimizer": "sgd", "lr": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of 7 random 16 px images, of which 6 train."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i in range(7):
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def runs(photos, tmp_path_factory):
    """Run folders by two ranks: copies; shares; shares that compute activations again, stopped and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    shares = {"shard": True, "checkpoint_activations": True}
    wanted = [
        {"output_dir": "copies"},
        {"output_dir": "shares", "shard": True},
        {"output_dir": "stopped", "max_steps": 2, **shares},
        {"output_dir": "stopped", **shares},
        {"output_dir": "on_copies", "max_steps": 2, **shares},
        {"output_dir": "on_copies"},
    ]
    values = [VALUES | each | {"datapath": str(photos)} for each in wanted]
    for each in values:
        each["output_dir"] = str(folder / each["output_dir"])
    script = folder / "runs.py"
    script.write_text(RUNS.format(root=str(ROOT)))
    done = launch(str(script), json.dumps(values), ranks=2)
    assert done.returncode == 0, done.stderr
    assert "sharded over 2 ranks" in done.stderr and "Warning" not in done.stderr
    return folder


def state_of(folder) -> dict:
    return checkpoint.load(folder / "checkpoint.pt").state


def losses(folder) -> list[float]:
    return [row["loss"] for row in rows_of(folder) if "loss" in row]


def distance(one, other) -> float:
    """Of two states with the same names, kinds and shapes, relative to the first one's norm."""
    ours, theirs = tensors(one), tensors(other)
    assert [each.shape for each in ours] == [each.shape for each in theirs]
    first, second = (
        torch.cat([each.flatten().double() for each in state]) for state in (ours, theirs)
    )
    return ((first - second).norm() / first.norm()).item()


def tensors(state) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else ()
    return [tensor for value in values for tensor in tensors(value)]


def kinds_of(state) -> object:
    """The same with the kind of each tensor in its place."""
    if isinstance(state, torch.Tensor):
        return f"{type(state)} {state.shape} {state.dtype}"
    if isinstance(state, dict):
        return {name: kinds_of(value) for name, value in state.items()}
    return [kinds_of(value) for value in state] if isinstance(state, list) else type(state)


@pytest.mark.slow
def test_shares_train_as_copies_do_and_leave_the_same_file(runs):
    copies, shares = state_of(runs / "copies"), state_of(runs / "shares")
    for part, state in copies.items():
        same(kinds_of(state), kinds_of(shares[part]))
        # Batch norms over four crops magnify the rounding of gradients, which SGD's momenta are sums of
        if part != "scaler":
            assert distance(state, shares[part]) < (1e-4 if part == "optimizer" else 1e-6), part
    assert losses(runs / "shares") == pytest.approx(losses(runs / "copies"), rel=1e-5)
    assert len(losses(runs / "copies")) == 6
    knn = [[row.get("knn_top1") for row in rows_of(runs / name)] for name in ("copies", "shares")]
    assert knn[0] == knn[1]


@pytest.mark.slow
def test_stopped_shares_resume_to_the_same_weights(runs):
    same(state_of(runs / "shares"), state_of(runs / "stopped"))
    assert losses(runs / "shares") == losses(runs / "stopped")


@pytest.mark.slow
def test_a_run_of_shares_goes_on_with_copies(runs):
    shares, copies = state_of(runs / "shares"), state_of(runs / "on_copies")
    for part in ("student", "teacher", "objective"):
        assert distance(shares[part], copies[part]) < 1e-6, part


@pytest.mark.slow
def test_one_process_goes_on_alone_and_says_so(photos, runs, capsys):
    """With other numbers of ranks, too: what was stopped is taken up by one process, unsharded."""
    stored = state_of(runs / "stopped")
    values = VALUES | {"output_dir": str(runs / "stopped"), "shard": True, "accumulate": 4}
    result = pretrain.run(recipe(Recipe, **values, datapath=str(photos)))
    assert result["status"] == "finished"
    assert "one process alone has nothing to share out" in capsys.readouterr().err
    same(stored, state_of(runs / "stopped"))


TOGETHER = """
import copy, sys
sys.path.insert(0, {root!r})
import torch
from torch import nn
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands._features import shared_features
from multicrop.datasets._images import ImageSet
from multicrop.engine import optim, ranks, sharding
from multicrop.engine.guard import check_finite
from multicrop.engine.parameter_groups import parameter_groups

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 6), nn.Linear(6, 3))
        self.backbone.dim = 3
    def forward(self, images):
        return self.backbone(images)

device = ranks.start("cpu")
images = torch.arange(24.0).view(2, 3, 2, 2) / 24
for name in optim.OPTIMIZERS:
    torch.manual_seed(0)
    plain = Network()
    shares = copy.deepcopy(plain)
    sharding.shard((shares,), device)
    states = []
    for network in (plain, shares):
        optimizer = optim.build_optimizer(name, parameter_groups(network))
        optim.set_rates(optimizer, 0.1, 0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(network(images).square().mean()).backward()
            gradient = dict(network.named_parameters())["backbone.2.weight"].grad
            if step == 2 and network is plain:
                gradient[5, 0] = torch.inf
            elif step == 2 and ranks.rank() == 1:  # in the share of one rank
                gradient.to_local()[2, 0] = torch.inf
            scaler.unscale_(optimizer)
            optim.clip_per_parameter(network.parameters(), 0.05)
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 4
        whole = [sharding.whole(parameter.detach()) for parameter in network.parameters()]
        states.append((whole, sharding.whole_state(optimizer.state_dict())))
    torch.testing.assert_close(states[0][0], states[1][0], rtol=1e-4, atol=1e-5)
    if ranks.rank() == 0:
        torch.testing.assert_close(states[0][1], states[1][1], rtol=1e-4, atol=1e-5)

# Fewer images than ranks: all take part in each forward pass
pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
transform = EvalTransform(2, (0.5,) * 3, (0.5,) * 3)
sets = ImageSet(pixels=pixels, labels=None, classes=(), mean=(0.5,) * 3, std=(0.5,) * 3)
found = shared_features(shares.backbone, sets, torch.arange(1), transform, device, None)
assert found.values.shape == (1, 3) and found.indices.tolist() == [0]

# What one rank finds all of them say
try:
    check_finite({{"weight": torch.tensor(torch.inf if ranks.rank() == 0 else 0.0)}}, 3)
except FloatingPointError as error:
    assert "after step 3" in str(error)
else:
    raise AssertionError("one rank alone stops")
ranks.stop()
"""


def test_every_optimizer_steps_and_skips_overflows_with_shares(tmp_path):
    """As with whole networks: a cap and trust ratios of whole tensors, whole matrices, overflows anywhere."""
    script = tmp_path / "together.py"
    script.write_text(TOGETHER.format(root=str(ROOT)))
    done = launch(str(script), ranks=2, timeout=120)
    assert done.returncode == 0, done.stderr


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(2, 2)
        self.two = nn.Linear(2, 2)
        self.two.weight = self.one.weight


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


@pytest.mark.parametrize(
    ("network", "device", "message"),
    [
        (Tied(), "cpu", "one.weight and two.weight are one"),
        (Scaled(), "cpu", "scale is a single number"),
        (nn.Linear(1, 1), "mps", "works on cuda and cpu, not on mps"),
    ],
)
def test_what_cannot_be_shared_out_is_one_line(network, device, message):
    with pytest.raises(ValueError, match=message):
        sharding.shard((network,), torch.device(device))


def test_shards_are_not_compiled():
    with pytest.raises(ValueError, match="--shard True: not with --compile"):
        recipe(Recipe, shard=True, compile=True)
    assert recipe(Recipe, shard=True).run.compile_networks is False  # of which auto is the default
