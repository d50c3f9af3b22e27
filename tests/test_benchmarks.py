"""The yardstick of benchmarks/train_step.py takes the same step as ours, and that of benchmarks/predict.py runs."""

import torch
from conftest import recipe

from benchmarks import predict
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
