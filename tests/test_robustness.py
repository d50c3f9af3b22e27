"""multicrop robustness: what it measures, of made and of published corruptions, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import launch, recipe, result_of, save_content
from PIL import Image

import multicrop
from multicrop.augment import corruptions
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import _measurements, finetune, robustness
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.robustness import Recipe
from multicrop.datasets import shapes
from multicrop.pictures.robustness import draw_robustness
from multicrop.probes.calibration import calibration
from multicrop.registry import backbone
from multicrop.supervised.classifier import Classifier

OPTIONS = {"arch": "resnet", "image_size": 32, "depth": 8, "in_channels": 3, "drop_path_rate": 0.0}
IMAGES = 40
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
FEW = {"corruptions": ("fog", "jpeg_compression"), "severities": (1, 4)}


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch):
    """The embedded data set, smaller."""
    whole = shapes.load

    def load(root, split, *options):
        return whole(root, split, *options, train_images=50, test_images=IMAGES)

    monkeypatch.setattr(shapes, "load", load)
    monkeypatch.setattr(shapes, "DATASET", replace(shapes.DATASET, load=load))


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """A second each; the picture has a test of its own."""
    monkeypatch.setattr(robustness, "draw_robustness", lambda *words: None)


def network(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(backbone(**OPTIONS), 10)


def save(path, **changes):
    data = {"dataset": "shapes", "classes": [*shapes.CLASSES], "mean": MEAN, "std": STD}
    content = {"kind": "finetune", "backbone": OPTIONS, "recipe": {}, "data": data}
    save_content(content | {"model": network().state_dict()} | changes, path)
    return path


@pytest.fixture
def model(tmp_path):
    """A random classifier; the test images decide what it takes for what."""
    return save(tmp_path / "model.pt")


def run(model, **values) -> dict:
    return robustness.run(recipe(Recipe, model=str(model), device="cpu", **{**FEW, **values}))


def error_of(images: torch.Tensor, labels: torch.Tensor) -> float:
    transform = EvalTransform(32, tuple(MEAN), tuple(STD))
    with torch.no_grad():
        predicted = network().eval()(transform(images)).argmax(1)
    return 100 * (predicted != labels).float().mean().item()


# What it measures


def test_errors_are_those_on_corrupted_test_images(model, tmp_path, capsys):
    result = run(model, seed=5)
    test = shapes.load("", "test")
    for name in FEW["corruptions"]:
        errors = []
        for severity in FEW["severities"]:
            images = corruptions.corrupt(test.pixels, name, severity, seed=5)
            errors.append(error_of(images, test.labels))
        assert result["corruptions"][name]["error"] == pytest.approx(errors)
        assert result["corruptions"][name]["mean_error"] == pytest.approx(np.mean(errors), abs=1e-3)
    means = [row["mean_error"] for row in result["corruptions"].values()]
    assert result["mean_corruption_error"] == pytest.approx(np.mean(means), abs=1e-3)
    assert result["mean"]["ece"] > 0 and result["status"] == "finished"
    assert json.loads((tmp_path / "robustness.json").read_text()) == result
    assert not (tmp_path / "robustness.partial.json").exists()
    lines = capsys.readouterr().err.splitlines()
    words = [line.split()[0] for line in lines if line]
    assert words[:5] == ["error", "severity", "clean", "fog", "jpeg_compression"]


def test_calibration_is_measured_with_the_checkpoints_temperature_too(model, tmp_path, capsys):
    plain = run(model)
    assert plain["temperature"] is None and "calibrated_ece" not in plain["clean"]
    assert "ECE/T" not in capsys.readouterr().err
    fit = {"temperature": 2.5, "images": 50, "nll": 1.0, "nll_before": 1.1}
    result = run(save(tmp_path / "fitted.pt", calibration={"model": fit}))
    assert (result["temperature"], result["clean"]["ece"]) == (2.5, plain["clean"]["ece"])
    test = shapes.load("", "test")
    with torch.no_grad():
        logits = network().eval()(EvalTransform(32, tuple(MEAN), tuple(STD))(test.pixels))
    for name, value in calibration(logits / 2.5, test.labels).to_dict().items():
        assert result["clean"][f"calibrated_{name}"] == pytest.approx(value, abs=1e-3)
    assert result["mean"]["calibrated_ece"] != result["mean"]["ece"]
    assert "ECE/T" in capsys.readouterr().err


def test_clean_accuracy_is_that_of_finetune_eval(model):
    evaluated = finetune.run(
        recipe(Finetuning, pretrained_weights=str(model), eval=True, device="cpu")
    )
    clean = run(model)["clean"]
    assert clean["top1"] == evaluated["test_top1"] and clean["top5"] == evaluated["test_top5"]
    assert clean["error"] == pytest.approx(100 - clean["top1"])


def test_the_batch_makes_no_difference_and_the_seed_does(model):
    values = {"corruptions": ("gaussian_noise", "elastic_transform"), "severities": (5,)}
    first, other = (run(model, **values, batch_size=size) for size in (256, 7))
    assert first["corruptions"] == other["corruptions"]
    assert first["corruptions"] != run(model, **values, seed=1)["corruptions"]


def test_without_names_it_is_the_published_mean_but_for_frost(model, capsys):
    result = run(model, corruptions=(), severities=(3,))
    assert tuple(result["corruptions"]) == corruptions.CORRUPTIONS
    assert len(result["corruptions"]) == 14 and result["left_out"] == ["frost"]
    assert capsys.readouterr().err.count("over 14 corruptions, without frost") == 1


def test_an_interrupted_measurement_goes_on(model, tmp_path, monkeypatch):
    whole = run(model)["corruptions"]
    with monkeypatch.context() as patch:
        patch.setattr(robustness, "stoppable", Stop)
        stopped = run(model)
    assert (stopped["status"], stopped["done"], stopped["missing"]) == ("interrupted", 2, 2)
    assert json.loads((tmp_path / "robustness.json").read_text())["corruptions"] == whole
    measured = []
    numbers = _measurements.Measured.numbers
    monkeypatch.setattr(
        _measurements.Measured, "numbers", lambda *words: measured.append(1) or numbers(*words)
    )
    finished = run(model)
    assert finished["corruptions"] == whole and len(measured) == 2
    assert len(run(model)["corruptions"]) == 2 and len(measured) == 7  # of all, the clean ones too


class Stop:
    """An interrupt that comes after two measurements."""

    def __init__(self):
        self.left = 3

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def asked(self):
        self.left -= 1
        return self.left == 0


def test_of_other_weights_nothing_is_taken_which_is_said(model, monkeypatch, capsys):
    monkeypatch.setattr(robustness, "stoppable", Stop)
    assert run(model)["status"] == "interrupted"
    assert "begun again" not in capsys.readouterr().err
    save(model, model=network(seed=1).state_dict())
    assert run(model)["done"] == 2
    assert "is of other weights, images or settings: begun again" in capsys.readouterr().err


def test_which_file_is_measured_and_that_a_result_is_replaced_are_said(model, tmp_path, capsys):
    (tmp_path / "checkpoint.pt").write_bytes(model.read_bytes())
    (tmp_path / "best.pt").write_bytes(model.read_bytes())
    run(tmp_path)
    said = capsys.readouterr().err
    assert (
        f"weights of {tmp_path / 'checkpoint.pt'}, after epoch" in said
        and "is there already" not in said
    )
    run(tmp_path)
    assert f"{tmp_path / 'robustness.json'} is there already" in capsys.readouterr().err


def test_the_picture(tmp_path):
    rows = {f"number_{i}": {"error": [10, 20 + i], "ece": [3, 5]} for i in range(14)}
    draw_robustness(rows, {"error": 5, "ece": 2}, [1, 4], tmp_path / "robustness.png")
    with Image.open(tmp_path / "robustness.png") as picture:
        assert picture.size[0] > 500


def test_from_python(model):
    result = multicrop.robustness(model, corruptions=["contrast"], severities=[2], device="cpu")
    assert result["images"] == IMAGES and result["severities"] == [2]


@pytest.mark.slow
def test_as_a_user_runs_it(model, tmp_path):
    """On the whole test set of shapes, which the other tests cut."""
    flags = ("--corruptions", "contrast", "--severities", "2", "--output_dir", tmp_path / "new")
    result = result_of(launch("robustness", model, *flags))
    assert result["corruptions"].keys() == {"contrast"} and result["images"] == 1000
    assert (tmp_path / "new" / "robustness.png").stat().st_size > 1000


# Published files


def write_arrays(folder, labels_of: int = 5, **arrays) -> None:
    """CIFAR-10-C's layout, of what corrupt() makes of the test images with another seed."""
    test = shapes.load("", "test")
    folder.mkdir(exist_ok=True)
    for name in ("fog", "jpeg_compression", "saturate"):
        parts = [corruptions.corrupt(test.pixels, name, s, seed=9) for s in range(1, 6)]
        np.save(folder / f"{name}.npy", torch.cat(parts).permute(0, 2, 3, 1).numpy())
    np.save(folder / "labels.npy", test.labels.repeat(labels_of).numpy().astype(np.uint8))
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


@pytest.mark.parametrize("labels_of", (5, 1))
def test_published_arrays(model, tmp_path, labels_of):
    write_arrays(tmp_path / "C", labels_of)
    made = run(model, seed=9)
    result = run(model, published=str(tmp_path / "C"))
    assert result["source"] == "published" and result["corruptions"] == made["corruptions"]
    assert (tmp_path / "robustness.json").exists()  # the made ones' result stays
    assert result["file"].endswith("robustness_published.json")


def test_published_arrays_without_names(model, tmp_path, capsys):
    write_arrays(tmp_path / "C", frost=np.zeros((200, 32, 32, 3), np.uint8))
    result = run(model, published=str(tmp_path / "C"), corruptions=())
    assert list(result["corruptions"]) == ["frost", "fog", "jpeg_compression"]
    assert "gaussian_noise" in result["left_out"]
    assert "the mean is over 3 corruptions, without gaussian_noise," in capsys.readouterr().err


def test_published_folders(model, tmp_path):
    test = shapes.load("", "test")
    for name in FEW["corruptions"]:
        for severity in (1, 4):
            images = corruptions.corrupt(test.pixels, name, severity, seed=9)
            for number, (image, label) in enumerate(zip(images, test.labels, strict=True)):
                folder = tmp_path / "T" / name / str(severity) / shapes.CLASSES[label]
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{number}.png"
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    made = run(model, seed=9)
    result = run(model, published=str(tmp_path / "T"), workers=1)
    for name, row in made["corruptions"].items():
        assert result["corruptions"][name]["error"] == row["error"]
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*fog/2$"):
        run(model, published=str(tmp_path / "T"), severities=(2,))


# A reference


def test_mce_is_the_ratio_of_errors(model, tmp_path):
    own = run(model)
    path = tmp_path / "robustness.json"
    same = run(model, reference=str(tmp_path))
    assert same["mce"] == 100 and same["ce"] == {"fog": 100, "jpeg_compression": 100}
    other = json.loads(path.read_text()) | {"dataset": "Shapes"}
    other["corruptions"]["fog"]["error"] = [10, 30]
    other["corruptions"]["jpeg_compression"]["error"] = [20, 20]
    other["clean"]["error"] = 5.0
    (tmp_path / "other.json").write_text(json.dumps(other))
    result = run(model, reference=str(tmp_path / "other.json"))
    sums = [sum(row["error"]) for row in own["corruptions"].values()]
    assert result["mce"] == pytest.approx(100 * np.mean([sums[0] / 40, sums[1] / 40]), abs=1e-2)
    rises = [(total - 2 * own["clean"]["error"]) / (40 - 10) for total in sums]
    assert result["relative_mce"] == pytest.approx(100 * np.mean(rises), abs=1e-2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"severities": [1, 2, 3, 4, 5]},
            r"has severities \[1, 2, 3, 4, 5\], and this is \[1, 4\]",
        ),
        ({"seed": 7}, "has seed 7, and this is 0"),
        ({"dataset": "cifar10"}, "has dataset cifar10, and this is shapes"),
        ({"corruptions": {"fog": {"error": [1, 2]}}}, "not measured under jpeg_compression"),
        ({"corruptions": {"fog": {"error": [0, 0]}}}, "makes no error under fog"),
        ({"clean": None}, "is no result of robustness"),
    ],
)
def test_a_reference_that_does_not_fit_is_said(model, tmp_path, change, words):
    run(model)
    path = tmp_path / "robustness.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=words) as error:
        run(model, reference=str(path))
    assert "\n" not in str(error.value) and str(error.value).startswith("--reference ")


# What it refuses


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"corruptions": ("fogg",)}, "--corruptions fogg: no corruption is called so; did you mean 'fog'"),
        ({"corruptions": ("frost",)}, "--corruptions frost: it lays photographs over images"),
        ({"severities": (6,)}, "--severities 6: must be within 1 and 5"),
        ({"severities": ()}, "--severities : needs at least one number"),
        ({"published": "nowhere"}, "there is no folder nowhere: unpack CIFAR-10-C"),
        ({"reference": "nowhere"}, "--reference nowhere: there is no nowhere"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(model, values, words):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        run(model, **values)
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


def test_what_is_no_classifier_is_refused(model, tmp_path):
    path = save(tmp_path / "ssl.pt", kind="ssl", model={}, teacher=network().backbone.state_dict())
    with pytest.raises(ValueError, match="no classifier of ours: give a run or checkpoint of fine"):
        run(path)
    options = OPTIONS | {"in_channels": 1}
    gray = Classifier(backbone(**options), 10).state_dict()
    path = save(tmp_path / "gray.pt", backbone=options, model=gray)
    with pytest.raises(ValueError, match="is for images of 1 channel, and these have 3"):
        run(path)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"fog": np.zeros((12, 32, 32, 3), np.uint8)}, r"fog.npy holds uint8 \(12, 32, 32, 3\); expected"),
        ({"fog": np.zeros((200, 32, 32, 3))}, r"fog.npy holds float64"),
        ({"fog": np.zeros((100, 32, 32, 3), np.uint8)}, r"labels.npy holds \(200,\) labels for 100 images"),
        ({"fog": np.zeros((200, 32, 32, 1), np.uint8)}, "fog.npy has 1 channels, and the clean test images have 3"),
        ({"labels": np.arange(200) % 20}, "has labels of 20 classes, 0 to 19, and the clean test images are of 9, 1"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_as_published(model, tmp_path, arrays, words):
    write_arrays(tmp_path / "C", **arrays)
    with pytest.raises(ValueError, match=words):
        run(model, published=str(tmp_path / "C"))


def test_damaged_and_missing_files(model, tmp_path):
    write_arrays(tmp_path / "C")
    with pytest.raises(FileNotFoundError, match="C has no snow; it has fog, jpeg_compression, sat"):
        run(model, published=str(tmp_path / "C"), corruptions=("snow",))
    (tmp_path / "C" / "fog.npy").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"fog.npy is damaged or no array of numpy"):
        run(model, published=str(tmp_path / "C"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has neither labels.npy beside <corruption>.npy nor"):
        run(model, published=str(tmp_path / "empty"))
