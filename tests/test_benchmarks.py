"""The yardstick of benchmarks/train_step.py takes the same step as ours, and the others' small programs run."""

import subprocess

import pytest
import torch
from conftest import recipe

from benchmarks import before_after, predict
from benchmarks._plain import PlainStep
from multicrop.commands import pretrain
from multicrop.commands._student import build
from multicrop.config.pretrain import Recipe
from multicrop.ssl.crops import Crops


def test_the_straightforward_step_is_ours():
    """On global crops alone: timm resizes position tables for local ones in its own way."""
    sizes = {"embed_dim": 24, "num_layers": 2, "num_heads": 2, "vit_mlp_ratio": 2.0}
    settings = recipe(Recipe, **sizes, out_dim=32, drop_path_rate=0.0)
    nets = build(settings, 3, torch.device("cpu"))
    plain = PlainStep(settings, nets.student.backbone, torch.device("cpu"))
    plain.backbone.load_state_dict(nets.student.backbone.state_dict())
    plain.head.load_state_dict(nets.student.head.state_dict())
    plain.teacher[0].load_state_dict(nets.student.backbone.state_dict())
    plain.teacher[1].load_state_dict(nets.student.head.state_dict())
    crops = Crops(torch.randn(2, 4, 3, 32, 32), torch.empty(0, 4, 3, 16, 16))
    rates = pretrain.Rates(1e-4, 0.04, 0.996)
    schedule = {"teacher_temp": 0.04, "frozen": False}
    for step in range(2):
        seen = pretrain.update(nets, [crops], rates, schedule, settings, None, step)
        torch.testing.assert_close(
            seen.loss.item(), plain(crops.globals, crops.locals), atol=1e-5, rtol=0
        )
    torch.testing.assert_close(nets.objective.centre, plain.centre[0], atol=1e-5, rtol=0)
    for name, value in plain.teacher[0].state_dict().items():
        torch.testing.assert_close(
            nets.teacher.backbone.state_dict()[name], value, atol=1e-5, rtol=0
        )


def test_predict_and_embed_are_compared_with_what_decodes_and_computes():
    settings = predict.Recipe(files=6, side=16, arch="resnet", batch_size=4, workers=1, repeats=1)
    measured = predict.measure(settings)
    assert measured["images"] == 6
    for command in ("predict", "embed"):
        assert measured[command]["of_bound"] > 0 and measured[command]["decode_per_second"] > 0


@pytest.fixture
def two_versions(tmp_path, monkeypatch):
    """A repository whose benchmark takes 10 ms in its first version and 5 in its second; gives the first's name."""
    monkeypatch.setattr(before_after, "ROOT", tmp_path)
    git = before_after.git
    git("init", "-q")
    program = tmp_path / "benchmarks" / "nap.py"
    program.parent.mkdir()
    for milliseconds in (10, 5):
        program.write_text(f"""print('warm'); print('{{"ms": {milliseconds}}}')""")
        git("add", ".")
        git("-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "nap")
    return git("rev-parse", "HEAD~1")


def test_two_versions_are_timed_in_turns(two_versions, tmp_path):
    settings = before_after.Recipe(two_versions, "nap", "ms", turns=2, out=str(tmp_path / "o.json"))
    measured = before_after.measure(settings)
    assert measured["turns"] == [{"before": 10.0, "after": 5.0}] * 2
    assert (measured["after_over_before"], measured["range"]) == (0.5, [0.5, 0.5])
    worktrees = subprocess.run(["git", "worktree", "list"], cwd=tmp_path, capture_output=True)
    assert len(worktrees.stdout.splitlines()) == 1, "the older version's folder is gone"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"before": "no-such-commit"}, "no-such-commit"),
        ({"benchmark": "none"}, "benchmarks.none failed in .*No module named"),
        ({"number": "seconds"}, "--number seconds: the benchmark prints ms"),
    ],
)
def test_what_cannot_be_compared_is_said(two_versions, settings, message):
    flags = {"before": two_versions, "benchmark": "nap", "number": "ms", "turns": 1} | settings
    with pytest.raises(SystemExit, match=f"(?s){message}"):
        before_after.measure(before_after.Recipe(**flags))
