"""multicrop precompute: what it stores, says and refuses. The files themselves: test_teacher_maps.py."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import content_of, launch, recipe, save_content

from multicrop import cli
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import precompute
from multicrop.config.precompute import Recipe
from multicrop.datasets import shapes
from multicrop.engine.fingerprint import dataset_fingerprint, teacher_fingerprint
from multicrop.registry import backbone
from multicrop.supervised.classifier import Classifier
from multicrop.supervised.teacher import Teacher
from multicrop.weights import teacher_maps
from multicrop.weights.teacher_maps import StoredMaps

OPTIONS = {"arch": "resnet", "image_size": 16, "depth": 8, "in_channels": 3, "drop_path_rate": 0.1}
IMAGES = 50


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch):
    """The embedded data set, smaller."""
    whole = shapes.load

    def load(root, split, *options):
        return whole(root, split, *options, train_images=IMAGES)

    monkeypatch.setattr(shapes, "load", load)
    monkeypatch.setattr(shapes, "DATASET", replace(shapes.DATASET, load=load))


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return backbone(**OPTIONS)


@pytest.fixture
def teacher(tmp_path):
    data = {
        "dataset": "shapes",
        "classes": [*shapes.CLASSES],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
    }
    state = {
        "kind": "finetune",
        "model": Classifier(network(), 10).state_dict(),
        "backbone": OPTIONS,
        "recipe": {},
    }
    save_content(state | {"data": data}, tmp_path / "teacher.pt")
    return tmp_path / "teacher.pt"


def run(teacher, output, **values) -> dict:
    values = {"dtype": "float32", "device": "cpu", "batch_size": 16, **values}
    return precompute.run(recipe(Recipe, teacher=str(teacher), output_dir=str(output), **values))


def data() -> tuple[dict, torch.Tensor]:
    split = shapes.load("", "train")
    return dataset_fingerprint("shapes", split), split.pixels


def test_the_maps_are_the_teachers_of_whole_images(teacher, tmp_path, capsys):
    result = run(teacher, tmp_path / "features")
    fingerprint, pixels = data()
    features = StoredMaps.open(
        tmp_path / "features", fingerprint | teacher_fingerprint(Teacher(network(), 16))
    )
    images = EvalTransform(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))(pixels)
    taught = Teacher(network(), 16, ("s1", "s2", "s3"))(images)
    for name, maps in zip(("s1", "s2", "s3"), taught.maps, strict=True):
        torch.testing.assert_close(features.arrays[name], maps, rtol=0, atol=1e-5)
    stored = IMAGES * 4 * (16 * 16 * 16 + 32 * 8 * 8 + 64 * 4 * 4)
    assert (result["status"], result["images"], result["done"]) == ("finished", IMAGES, IMAGES)
    assert result["bytes"] == stored and result["maps"] == {
        "s1": [16, 16, 16],
        "s2": [32, 8, 8],
        "s3": [64, 4, 4],
    }
    said = capsys.readouterr().err
    assert (
        f"50 images of shapes; maps s1 16 x 16 x 16, s2 32 x 8 x 8, s3 64 x 4 x 4, float32: {stored / 1e6:.1f} MB"
        in said
    )


def test_flags_choose_the_maps_and_the_size(teacher, tmp_path):
    result = run(
        teacher,
        tmp_path / "features",
        guide_teacher=("s3",),
        teacher_image_size=32,
        dtype="float16",
    )
    assert result["maps"] == {"s3": [64, 8, 8]} and result["bytes"] == IMAGES * 2 * 64 * 64


def test_batch_statistics_are_those_of_each_batch(teacher, tmp_path):
    run(teacher, tmp_path / "features", teacher_bn="batch", guide_teacher=("s2",))
    fingerprint, pixels = data()
    batch = Teacher(network(), 16, ("s2",), batch_norm="batch")
    features = StoredMaps.open(tmp_path / "features", fingerprint | teacher_fingerprint(batch))
    images = EvalTransform(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))(pixels)
    for rows in (slice(16, 32), slice(48, 50)):
        torch.testing.assert_close(
            features.arrays["s2"][rows], batch(images[rows]).maps[0], rtol=0, atol=1e-5
        )
    with pytest.raises(ValueError, match=r"batches of 16 \(here 10\): choose another --output_dir"):
        run(
            teacher, tmp_path / "features", teacher_bn="batch", guide_teacher=("s2",), batch_size=10
        )
    with pytest.raises(ValueError, match=r"batch norms by batch \(here running\)"):
        StoredMaps.open(tmp_path / "features", teacher_fingerprint(Teacher(network(), 16)))


@pytest.mark.slow
def test_a_signal_stops_after_a_batch_and_the_same_command_goes_on(
    teacher, tmp_path, monkeypatch, capsys
):
    write, interrupts = teacher_maps.Writer.append, []
    opened = precompute.Interrupt.__enter__
    monkeypatch.setattr(
        precompute.Interrupt, "__enter__", lambda self: interrupts.append(self) or opened(self)
    )

    def append(self, maps):
        write(self, maps)
        interrupts[-1].asked = len(interrupts) == 1 and self.done == 32

    monkeypatch.setattr(teacher_maps.Writer, "append", append)
    result = run(teacher, tmp_path / "features")
    assert (result["status"], result["done"]) == ("interrupted", 32)
    assert run(teacher, tmp_path / "features")["done"] == IMAGES
    assert "32 images are stored already" in capsys.readouterr().err
    again, alone = run(teacher, tmp_path / "features"), run(teacher, tmp_path / "alone")
    assert again["status"] == alone["status"] == "finished" and again["images_per_second"] == 0
    for name in ("s1.npy", "s3.npy", "features.json"):
        assert (tmp_path / "features" / name).read_bytes() == (
            tmp_path / "alone" / name
        ).read_bytes()


def test_a_disk_without_room_is_said_before_anything_is_written(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(
        teacher_maps.shutil, "disk_usage", lambda path: type("usage", (), {"free": 1_000_000})
    )
    with pytest.raises(
        OSError,
        match=r"features needs 1.4 MB and the disk has 1.0 MB free: make room, .*--guide_teacher or --dtype",
    ):
        run(teacher, tmp_path / "features")
    assert not (tmp_path / "features").exists()


def test_features_of_another_teacher_are_left_alone(teacher, tmp_path):
    run(teacher, tmp_path / "features")
    state = content_of(teacher)
    state["model"]["backbone.conv1.weight"][0] += 1
    save_content(state, tmp_path / "other.pt")
    with pytest.raises(
        ValueError,
        match=r"holds other features: teacher with hash \w+ \(here \w+\): choose another",
    ):
        run(tmp_path / "other.pt", tmp_path / "features")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"guide_teacher": ("s4",)},
            "--guide_teacher s4: ResNet has no map of this name; it has s1, s2, s3",
        ),
        ({"teacher_arch": "vit"}, "was made with resnet, not with vit"),
        ({"dataset": "shape"}, "no data set is called 'shape'; did you mean 'shapes'"),
        ({"batch_size": 0}, "--batch_size 0: must be at least 1"),
    ],
)
def test_flags_that_do_not_fit(teacher, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        run(teacher, tmp_path / "features", **values)


def test_no_teacher(tmp_path):
    with pytest.raises(ValueError, match=r"no teacher whose maps to store: give --teacher FILE"):
        precompute.run(cli.parse(Recipe, ["--output", str(tmp_path / "features")]))
    with pytest.raises(FileNotFoundError, match=r"none.pt"):
        run(tmp_path / "none.pt", tmp_path / "features")


def test_a_recipe_and_exit_codes(teacher, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(
        f"teacher: {teacher}\noutput_dir: {tmp_path / 'features'}\nguide_teacher: [s2, s3]\n"
    )
    flags = ["--recipe", str(tmp_path / "recipe.yaml"), "--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        cli.main(Recipe, precompute.run, flags)
    assert (
        not stop.value.code
        and json.loads(capsys.readouterr().out.splitlines()[-1])["dtype"] == "float16"
    )
    with pytest.raises(SystemExit) as stop:
        cli.main(Recipe, precompute.run, [*flags, "--dtype", "float32"])
    assert stop.value.code == 2 and "error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_as_a_command(tmp_path):
    stopped = launch("precompute", "--output_dir", tmp_path / "features")
    assert stopped.returncode == 2 and stopped.stderr.startswith(
        "error: no teacher whose maps to store"
    )
