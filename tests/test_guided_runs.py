"""finetune.py with a teacher: guidance, distillation, both; resuming, ranks, files, and bad input."""

import math
from pathlib import Path

import pytest
import timm
import torch
from conftest import content_of, launch, recipe, result_of, rows_of, same, save_content
from finetuning import PLAIN, SMALL, networks, run, words
from safetensors.torch import save_file

from multicrop.commands import _classifier, precompute
from multicrop.config.precompute import Recipe as Stored
from multicrop.weights import pretrained

CNN = {
    "arch": "resnet8",
    "embed_dim": None,
    "num_layers": None,
    "num_heads": None,
    "image_size": 16,
}
SGD = {"optimizer": "sgd", "lr": 0.05, "warmup": 0, "epochs": 2, "val_fraction": 0.0}
GUIDED = {"guidance": "linear", "guide_student": ("blocks.0", "blocks.0", "blocks.1")}
DISTILLED = {"distillation": "soft", "ce_weight": 0.5, "head_init": "zero"}


@pytest.fixture(scope="module")
def teacher(colours, tmp_path_factory):
    """A small ResNet trained on the same images."""
    folder = tmp_path_factory.mktemp("teacher")
    run(colours, folder, **PLAIN, **CNN, **SGD)
    return str(folder)


@pytest.mark.parametrize(
    "options", [GUIDED, DISTILLED, GUIDED | DISTILLED, {"guidance": "attention"}]
)
def test_the_parts_of_the_loss_are_logged_and_fall(colours, teacher, tmp_path, options):
    result = run(
        colours, tmp_path, **PLAIN, **options, teacher=teacher, lr=0.01, warmup=0, epochs=6
    )
    rows = [row for row in rows_of(tmp_path) if "lr" in row]
    terms = [name for name in ("ce", "guidance", "kd") if name in rows[0]]
    expected = (
        {"ce"}
        | ({"guidance"} if "guidance" in options else set())
        | ({"kd"} if "kd" in rows[0] else set())
    )
    assert set(terms) == expected and ("kd" in terms) == ("distillation" in options)
    assert rows[0]["loss"] == pytest.approx(sum(rows[0][name] for name in terms), rel=1e-5)
    assert rows[-1]["loss"] < rows[0]["loss"] and result["test_top1"] > 60


@pytest.mark.parametrize("step", [3, 6])
@pytest.mark.slow
def test_a_guided_run_resumes_bit_equal_with_its_projections(colours, teacher, tmp_path, step):
    options = {
        **GUIDED,
        **DISTILLED,
        "teacher": teacher,
        "teacher_bn": "batch",
        "ema_decay": 0.5,
        "accumulate": 2,
    }
    run(colours, tmp_path / "whole", **options)
    run(colours, tmp_path / "parts", max_steps=step, **options)
    run(colours, tmp_path / "parts", **options)
    same(networks(tmp_path / "whole"), networks(tmp_path / "parts"))
    states = [content_of(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts")]
    same(states[0]["guidance"], states[1]["guidance"])
    same(states[0]["average"], states[1]["average"])
    assert states[0]["guidance"]["projections.0.weight"].abs().sum() > 0


def test_a_guided_checkpoint_is_a_plain_classifier_to_others(colours, teacher, tmp_path):
    result = run(colours, tmp_path, **PLAIN, **GUIDED, teacher=teacher)
    file = pretrained.read(tmp_path)
    assert file.head and not any("projection" in name for name in file.backbone)
    found = run(
        colours, tmp_path / "e", eval=True, pretrained_weights=str(tmp_path / "checkpoint.pt")
    )
    assert found["test_top1"] == result["test_top1"]


def test_guidance_changes_the_weights_and_the_teacher_does_not_change(colours, teacher, tmp_path):
    before = pretrained.read(teacher).backbone
    run(colours, tmp_path / "plain", **PLAIN, max_steps=2)
    run(colours, tmp_path / "guided", **PLAIN, **GUIDED, teacher=teacher, max_steps=2)
    plain, guided = (
        content_of(tmp_path / name / "checkpoint.pt")["model"] for name in ("plain", "guided")
    )
    assert not torch.equal(
        plain["backbone.blocks.0.attn.qkv.weight"], guided["backbone.blocks.0.attn.qkv.weight"]
    )
    same(before, pretrained.read(teacher).backbone)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.slow
def test_a_timm_teacher_in_a_safetensors_file_guides_and_distils(
    colours, tmp_path, monkeypatch, precision
):
    torch.manual_seed(0)
    published = timm.create_model("resnet10t", num_classes=3).eval()
    file = tmp_path / "resnet10t.safetensors"
    save_file(published.state_dict(), file)
    build_teacher, teachers = _classifier.build_teacher, []
    monkeypatch.setattr(
        _classifier,
        "build_teacher",
        lambda *given: teachers.append(build_teacher(*given)) or teachers[-1],
    )
    maps = {
        "guidance": "linear",
        "guide_student": ("blocks.0", "blocks.1"),
        "guide_teacher": ("layer1", "layer2"),
    }
    options = {
        **PLAIN,
        **DISTILLED,
        **maps,
        "teacher": str(file),
        "teacher_arch": "timm:resnet10t",
        "max_steps": 2,
    }
    with pytest.raises(
        ValueError, match="does not say the size of its images: give --teacher_image_size"
    ):
        run(colours, tmp_path / "run", **options)
    assert (
        run(colours, tmp_path / "run", **options, teacher_image_size=32, precision=precision)[
            "step"
        ]
        == 2
    )
    rows = [row for row in rows_of(tmp_path / "run") if "lr" in row]
    assert all(
        math.isfinite(row[name]) and row[name] > 0
        for row in rows
        for name in ("ce", "guidance", "kd")
    )
    x = torch.randn(2, 3, 32, 32)
    taught, expected = teachers[-1](x), published.forward_intermediates(x, intermediates_only=True)
    torch.testing.assert_close(taught.logits, published(x).detach())
    same(taught.maps, [found.detach() for found in expected[1:3]])  # after the stem's
    with pytest.raises(ValueError, match="does not say its architecture: give --teacher_arch"):
        run(colours, tmp_path / "other", **options | {"teacher_arch": None})


OFFLINE = {"aa": False, "cm": False, "mu": False, "re": 0.25, "sd": 0.1, "padding": 2}


@pytest.fixture(scope="module")
def features(colours, teacher, tmp_path_factory):
    """The teacher's maps of all training images."""
    folder = tmp_path_factory.mktemp("features")
    stored = precompute.run(
        recipe(
            Stored, teacher=teacher, datapath=str(colours), output_dir=str(folder), dtype="float32"
        )
    )
    assert stored["status"] == "finished" and stored["images"] == 60
    return str(folder)


def test_stored_maps_guide_as_the_teacher_itself_where_images_stay_whole(
    colours, teacher, features, tmp_path
):
    whole = {**PLAIN, **GUIDED, "padding": 0, "flip": 0.0, "max_steps": 3}
    run(colours, tmp_path / "online", **whole, teacher=teacher)
    run(colours, tmp_path / "stored", **whole, guidance_features=features)
    online, stored = (rows_of(tmp_path / name) for name in ("online", "stored"))
    assert [row["guidance"] for row in stored if "lr" in row] == pytest.approx(
        [row["guidance"] for row in online if "lr" in row], rel=1e-4
    )


@pytest.mark.slow
def test_a_run_by_stored_maps_resumes_bit_equal(colours, features, tmp_path):
    run(colours, tmp_path / "whole", **OFFLINE, **GUIDED, guidance_features=features)
    run(colours, tmp_path / "parts", **OFFLINE, **GUIDED, guidance_features=features, max_steps=5)
    run(colours, tmp_path / "parts", **OFFLINE, **GUIDED, guidance_features=features)
    same(networks(tmp_path / "whole"), networks(tmp_path / "parts"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--guidance_features: stored maps are only cut and flipped .* --aa_policy"),
        (PLAIN | {"cm": True}, "CutMix would mix images alone: --mix_prob 0"),
        (PLAIN | {"source_size": 8}, "holds other features: stored images of 16 x 16 px"),
    ],
)
def test_stored_maps_that_would_not_fit_are_refused(colours, features, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(colours, tmp_path, **{**options, **GUIDED, "guidance_features": features})


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(colours, teacher, tmp_path):
    options = {
        **SMALL,
        **PLAIN,
        **DISTILLED,
        "guidance": "linear",
        "teacher": teacher,
        "scratch": True,
        "max_steps": 3,
    }
    flags = words({**options, "datapath": colours, "output_dir": tmp_path / "2"})
    assert result_of(launch("finetune.py", "--recipe", "published", *flags, ranks=2))["step"] == 3
    assert run(colours, tmp_path / "1", **options)["step"] == 3
    one, two = (content_of(tmp_path / str(ranks) / "checkpoint.pt") for ranks in (1, 2))
    for part in ("model", "guidance"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": "linear"}, "--guidance linear: needs --teacher FILE"),
        ({"distillation": "soft"}, "--distillation soft: needs --teacher FILE"),
        ({"teacher": "here"}, "teaches nothing: give --guidance or --distillation"),
        ({"teacher": "here", **GUIDED, "guide_teacher": ("s1",)}, "do not make pairs"),
        (
            {"teacher": "here", **GUIDED, "freeze_backbone": True},
            "guides the backbone: not with --freeze_backbone",
        ),
        (
            {"teacher": "here", **PLAIN, **GUIDED, "guidance_features": "x"},
            "--teacher here: is not needed",
        ),
    ],
)
def test_flags_that_do_not_go_together(colours, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(colours, tmp_path, **options)


def test_maps_that_a_network_does_not_have_are_named(colours, teacher, tmp_path):
    options = {
        "guidance": "linear",
        "teacher": teacher,
        "guide_student": ("blocks.0", "blocks.1", "blocks.7"),
    }
    with pytest.raises(
        ValueError, match=r"blocks\.7: ViT has no map of this name; it has blocks\.0, blocks\.1"
    ):
        run(colours, tmp_path, **options)


def test_a_teacher_of_other_classes_may_guide_but_not_distil(colours, teacher, tmp_path):
    state = content_of(Path(teacher) / "checkpoint.pt")
    state["model"]["head.weight"], state["model"]["head.bias"] = torch.zeros(5, 64), torch.zeros(5)
    state["data"]["classes"] = list("abcde")
    save_content(state, tmp_path / "five.pt")
    with pytest.raises(ValueError, match="tells 5 classes apart, but image_folder has 3"):
        run(colours, tmp_path / "r", **DISTILLED, teacher=str(tmp_path / "five.pt"))
    assert (
        run(
            colours,
            tmp_path / "g",
            **PLAIN,
            **GUIDED,
            teacher=str(tmp_path / "five.pt"),
            max_steps=1,
        )["step"]
        == 1
    )


def test_another_teacher_under_the_same_path_does_not_resume(colours, teacher, tmp_path):
    state = content_of(Path(teacher) / "checkpoint.pt")
    for step in (1, 2):
        state["model"]["head.bias"] += 1.0
        state["model"]["backbone.conv1.weight"] += 1.0
        save_content(state, tmp_path / "cnn.pt")
        if step == 1:
            run(colours, tmp_path / "r", **DISTILLED, teacher=str(tmp_path / "cnn.pt"), max_steps=1)
    with pytest.raises(
        ValueError, match=r"holds another run: .*a teacher whose weights have the hash"
    ):
        run(colours, tmp_path / "r", **DISTILLED, teacher=str(tmp_path / "cnn.pt"))


def test_a_teacher_that_is_not_there(colours, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(colours, tmp_path, **DISTILLED, teacher="nowhere")
