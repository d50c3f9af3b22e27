"""multicrop linear: logistic regression and DINO's probe against scikit-learn and plain loops, and what it refuses."""

import shutil
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import launch, recipe, result_of
from probed import bank_of, faint_images, network, save
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.preprocessing import StandardScaler

import multicrop
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import linear
from multicrop.commands._linear_parts import Known
from multicrop.commands._linear_sgd import CroppedImages, flip_probability, predictions_of
from multicrop.commands.linear import part_of
from multicrop.config.linear import RATES, Recipe, SgdProbe
from multicrop.engine.batches import Batches
from multicrop.engine.metadata import Metadata
from multicrop.probes import linear as logistic
from multicrop.probes.linear_features import LinearFeatures
from multicrop.probes.linear_heads import LinearHeads, losses
from multicrop.registry import backbone


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return faint_images(tmp_path_factory.mktemp("faint"))


@pytest.fixture(scope="module")
def model(images, tmp_path_factory):
    return save(tmp_path_factory.mktemp("linear") / "model.pt", images)


def run(model, **values) -> dict:
    settings = {"device": "cpu", "random_weights": False, **values}
    return linear.run(recipe(Recipe, model=str(model), **settings))


def by_hand(bank: dict, c: float) -> dict[str, float]:
    """scikit-learn's own numbers in percent."""
    scaler = StandardScaler().fit(bank["train_features"])
    classifier = LogisticRegression(C=c, max_iter=1000)
    classifier.fit(scaler.transform(bank["train_features"]), bank["train_labels"])
    predicted = classifier.predict(scaler.transform(bank["test_features"]))
    true = bank["test_labels"].numpy()
    return {
        "top1": 100 * (predicted == true).mean(),
        "balanced_accuracy": 100 * balanced_accuracy_score(true, predicted),
        "macro_f1": 100 * f1_score(true, predicted, average="macro"),
    }


def numbers(row: dict) -> dict[str, float]:
    return {name: row[name] for name in ("top1", "balanced_accuracy", "macro_f1")}


# Logistic regression


def test_with_one_c_it_is_scikit_learns_on_all_training_images(model, images, capsys):
    result = run(model, linear_c=(0.1,))
    (row,) = result["results"]
    expected = by_hand(bank_of(network(), images), 0.1)
    assert numbers(row) == pytest.approx(expected, abs=1e-2) and 34 < row["top1"] < 100
    assert (row["linear_c"], row["features"], row["width"]) == (0.1, "features", 16)
    assert (result["train_images"], result["test_images"]) == (60, 24)
    said = capsys.readouterr().err
    assert (
        result["validation_images"] == 0 and "held out" not in said and "begins again" not in said
    )


def test_c_is_chosen_by_held_out_images_and_then_fitted_on_all(model, images, capsys):
    result = run(model, linear_c=(1e-4, 0.01, 1.0))
    (row,) = result["results"]
    sweep = row["sweep"]
    assert sweep[row["linear_c"]] == max(sweep.values()) == row["validation_top1"]
    expected = by_hand(bank_of(network(), images), row["linear_c"])
    assert numbers(row) == pytest.approx(expected, abs=1e-2)
    assert (result["validation"], result["validation_images"]) == ("held_out", 6)
    said = capsys.readouterr().err
    assert said.count("6 of 60 training images, 0.1 of each class, are held out") == 1


def test_a_validation_split_of_the_data_set_chooses(images, tmp_path):
    split = tmp_path / "images"
    shutil.copytree(images, split)
    for path in sorted((split / "train").glob("*/0*.png")):
        other = split / "val" / path.parent.name / path.name
        other.parent.mkdir(parents=True, exist_ok=True)
        path.rename(other)
    own = save(tmp_path / "model.pt", split)
    result = run(own, linear_c=(0.01, 1.0))
    assert (result["validation"], result["validation_images"]) == ("own", 30)
    assert result["train_images"] == 30
    # Of the chosen C all 60 images are fitted, as if they had never been split
    expected = by_hand(bank_of(network(), images), result["results"][0]["linear_c"])
    assert numbers(result["results"][0]) == pytest.approx(expected, abs=1e-2)
    held_out = run(own, linear_c=(0.01, 1.0), validation="held_out")
    assert (held_out["validation"], held_out["validation_images"]) == ("held_out", 3)


def blobs(seed: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat_interleave(20)
    return 2 * torch.eye(4, 6)[labels] + spread * torch.randn(80, 6, generator=random), labels


def test_the_published_search_halves_around_the_best():
    sweep = logistic.sweep(blobs(0, 1.5), blobs(1, 1.5))
    assert set(logistic.FIRST_CS) <= set(sweep.top1)
    assert len(logistic.FIRST_CS) < len(sweep.top1) <= logistic.fits_of_search() == 15
    tried = sorted(sweep.top1)
    place = tried.index(sweep.best)
    assert sweep.top1[sweep.best] == max(sweep.top1.values())
    if not sweep.at_edge:
        neighbour = min(sweep.best / tried[place - 1], tried[place + 1] / sweep.best)
        assert neighbour == pytest.approx(10 ** (1 / 8), rel=1e-4)
    for c in (1e-4, 100.0):
        assert sweep.top1[c] == pytest.approx(
            logistic.linear_probe(*blobs(0, 1.5), *blobs(1, 1.5), c)
        )


def test_of_equals_the_strongest_penalty_and_the_edge_is_known(capsys):
    sweep = logistic.Sweep({0.1: 90.0, 1.0: 95.0, 10.0: 95.0}, (10.0,))
    assert sweep.best == 1.0 and not sweep.at_edge
    assert logistic.Sweep({0.1: 90.0, 1.0: 95.0}, ()).at_edge
    assert not logistic.Sweep({1.0: 95.0}, ()).at_edge
    linear.say_sweep(sweep)
    linear.say_sweep(logistic.Sweep({0.1: 90.0, 1.0: 95.0}, ()))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "L-BFGS did not come to its end in 1000 iterations at C 10"
    assert second.startswith("C 1 is at the edge of what was tried, 0.1 to 1: --linear_c")


def test_a_fit_that_is_given_up_is_one_line(monkeypatch):
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logistic.linear_probe(*blobs(0, 1.0), *blobs(1, 1.0), c=100.0)
    (message,) = (str(warning.message) for warning in caught)
    assert message == "L-BFGS did not come to its end in 1 iterations at C 100"
    assert logistic.sweep(blobs(0, 1.0), blobs(1, 1.0), (100.0,)).unconverged == (100.0,)


# Features of the last blocks


@torch.no_grad()
def plain_blocks(vit, images: torch.Tensor) -> list[torch.Tensor]:
    """Every block's normalised tokens, one block after the other."""
    tokens, outputs = vit.tokens(images), []
    for block in vit.blocks:
        tokens = block(tokens)
        outputs.append(vit.norm(tokens))
    return outputs


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("patches", [False, True])
def test_class_tokens_of_the_last_blocks_stand_side_by_side(blocks, patches):
    vit, images = network().eval(), torch.randn(2, 3, 16, 16)
    outputs = plain_blocks(vit, images)
    expected = [output[:, 0] for output in outputs[-blocks:]]
    if patches:
        expected.append(outputs[-1][:, 1:].mean(1))
    features = LinearFeatures(vit, blocks, patches)
    with torch.no_grad():
        torch.testing.assert_close(features(images), torch.cat(expected, 1))
        torch.testing.assert_close(LinearFeatures(vit, 0)(images), vit(images))
    assert features.dim == 16 * (blocks + patches)


def test_where_the_mean_patch_is_the_feature_it_is_taken_of_each_block():
    vit, images = network(pool="mean").eval(), torch.randn(2, 3, 16, 16)
    outputs = plain_blocks(vit, images)
    features = LinearFeatures(vit, 2)
    with torch.no_grad():
        found = features(images)
        torch.testing.assert_close(found[:, 16:], vit(images))
    torch.testing.assert_close(
        found, torch.cat([output[:, 1:].mean(1) for output in outputs[-2:]], 1)
    )
    assert features.name == "mean patches of the last 2 blocks"
    with pytest.raises(ValueError, match="are the mean patch already"):
        LinearFeatures(vit, 2, average_patches=True)


def test_timms_transformers_and_a_distillation_token():
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 2}
    model = timm.models.VisionTransformer(**sizes, num_classes=0).eval()
    model.dim, images = 12, torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        found = LinearFeatures(model, 2, average_patches=True)(images)
        tokens = model.forward_features(images)
    torch.testing.assert_close(found[:, 12:24], tokens[:, 0])
    torch.testing.assert_close(found[:, 24:], tokens[:, 1:].mean(1))
    assert found.shape == (2, 36)
    options = {"embed_dim": 12, "num_layers": 2, "num_heads": 2}
    distilled = backbone("deit", 16, distilled=True, **options).eval()
    with torch.no_grad():
        found = LinearFeatures(distilled, 1, average_patches=True)(images)
        tokens = distilled.intermediate(images, 1)[0]
    torch.testing.assert_close(found, torch.cat([tokens[:, 0], tokens[:, 2:].mean(1)], 1))


# SGD


def test_each_rate_learns_as_a_layer_alone_does():
    features, labels = torch.randn(5, 8, 6), torch.randint(3, (5, 8))
    rates = (0.5, 0.02)
    heads = LinearHeads(6, 3, len(rates))
    alone = [torch.nn.Linear(6, 3) for _ in rates]
    for layer in alone:
        layer.load_state_dict(heads.heads[0].state_dict())
    together = heads.optimizer(rates, momentum=0.9)
    plain = [
        torch.optim.SGD(layer.parameters(), rate, momentum=0.9)
        for layer, rate in zip(alone, rates, strict=True)
    ]
    for batch, label in zip(features, labels, strict=True):
        loss = losses(heads(batch), label)
        together.zero_grad()
        loss.sum().backward()
        together.step()
        for layer, optimizer, own in zip(alone, plain, loss, strict=True):
            expected = F.cross_entropy(layer(batch), label)
            torch.testing.assert_close(own, expected)
            optimizer.zero_grad()
            expected.backward()
            optimizer.step()
    for head, layer in zip(heads.heads, alone, strict=True):
        torch.testing.assert_close(head.weight, layer.weight)
        torch.testing.assert_close(head.bias, layer.bias)


def test_images_are_cropped_and_flipped_anew_in_each_step():
    pixels = torch.randint(256, (6, 3, 20, 20), dtype=torch.uint8)
    batches = Batches(pixels, None, 3, seed=0, device=torch.device("cpu"))
    seen_as = EvalTransform(8, (0.5,) * 3, (0.5,) * 3)
    crops = CroppedImages(SgdProbe(), 0.5, seen_as, seed=0)
    first, again, other = (crops.draw(batches, step) for step in (0, 0, 1))
    assert torch.equal(first.box, again.box) and not torch.equal(first.box, other.box)
    assert crops(pixels[:3], first).shape == (3, 3, 8, 8)
    whole = CroppedImages(
        SgdProbe(crop_scale=(1.0, 1.0)), 0.0, EvalTransform(20, (0.0,), (1.0,)), 0
    )
    whole.cut = type(whole.cut)((1.0, 1.0), (1.0, 1.0), 0.0)
    torch.testing.assert_close(whole(pixels[:3], whole.draw(batches, 0)), pixels[:3] / 255)


def test_digits_and_images_that_were_never_mirrored_are_not_mirrored():
    assert flip_probability(SgdProbe(), "CIFAR10", Metadata("ssl")) == 0.5
    assert flip_probability(SgdProbe(), "SVHN", Metadata("ssl")) == 0.0
    upright = Metadata("ssl", recipe={"crop_flip": 0})
    assert flip_probability(SgdProbe(), "CIFAR10", upright) == 0.0
    assert flip_probability(SgdProbe(flip=0.3), "SVHN", upright) == 0.3


SGD = {"probe": "sgd", "epochs": 2, "batch_size_per_gpu": 12, "crop_scale": (0.5, 1.0)}


def test_one_pass_trains_all_rates_and_held_out_images_choose(model, capsys):
    result = run(model, **SGD, lr=(1e-4, 1.0))
    (row,) = result["results"]
    assert row["features"] == "class tokens of the last 3 blocks" and row["width"] == 48
    assert row["validation_top1"] == max(row["sweep"].values()) == row["sweep"][row["lr"]]
    assert row["peak_lr"] == pytest.approx(row["lr"] * 12 / 256)
    assert result["validation_images"] == 6 and row["images_per_second"] > 0
    said = capsys.readouterr().err
    assert "keeps nothing on its way: if it is interrupted, it begins again" in said
    assert "epoch 2/2: training loss" in said and "is at the edge of what was tried" in said
    assert run(model, **SGD, lr=(1e-4, 1.0))["results"] == [
        {**row, "images_per_second": pytest.approx(row["images_per_second"], rel=10)}
    ]


def test_with_one_rate_all_images_train_as_published(model, capsys):
    result = run(model, **SGD, lr=(0.1,), n_last_blocks=1, random_weights=True)
    assert result["validation"] is None and "held out" not in capsys.readouterr().err
    random, own = result["results"]
    assert random["checkpoint"] == "random weights, seed 7" and random["step"] == 0
    assert own["features"] == "class tokens of the last block" and "sweep" not in own


def test_fewer_images_than_a_batch_are_one_batch(model, capsys):
    settings = {**SGD, "batch_size_per_gpu": 128, "epochs": 1}
    (row,) = run(model, **settings, lr=(0.1,))["results"]
    assert row["peak_lr"] == pytest.approx(0.1 * 60 / 256)
    assert "--batch_size_per_gpu 60: there are 60 training images" in capsys.readouterr().err


def test_the_published_settings_are_the_defaults():
    """eval_linear.py of DINO at 04c0ad9, and the rates of DINOv2's at 05c66df."""
    settings = recipe(Recipe, model="x", probe="sgd")
    assert (settings.sgd.epochs, settings.sgd.batch_size_per_gpu, settings.sgd.momentum) == (
        100,
        128,
        0.9,
    )
    assert settings.linear.blocks == 4 and not settings.linear.avgpool_patchtokens
    assert settings.sgd.crop_scale == (0.08, 1.0) and settings.sgd.lr == RATES and len(RATES) == 13
    assert settings.sgd.rates(128)[6] == pytest.approx(0.0005)
    assert recipe(Recipe, model="x").linear.blocks == 0


# What it refuses


def test_what_it_refuses(model, tmp_path, images, monkeypatch):
    for values, words in [
        ({"n_last_blocks": 4}, "--n_last_blocks, of vit: it has 3 blocks, and not 4"),
        ({"validation": "own"}, "--validation own: image_folder"),
        ({"dataset": "images", "datapath": str(images / "train" / "red")}, "has no labels"),
    ]:
        with pytest.raises(ValueError, match=words):
            run(model, **values)
    path = tmp_path / "resnet.pt"
    values = {"arch": "resnet20", "image_size": 16}
    torch.save(backbone(**values).state_dict(), path)
    data = {"dataset": "image_folder", "datapath": str(images)}
    with pytest.raises(
        ValueError, match="--n_last_blocks, of resnet20: its blocks have no class token"
    ):
        run(path, **values, **data, n_last_blocks=1)
    with pytest.raises(ValueError, match="--avgpool_patchtokens, of resnet20: its blocks have no"):
        run(path, **values, **data, **SGD, avgpool_patchtokens=True)
    (row,) = run(path, **values, **data, **SGD, lr=(0.1,))["results"]
    assert row["features"] == "features"
    heads = LinearHeads(2, 3, 2)
    torch.nn.init.constant_(heads.heads[0].weight, float("nan"))
    assert predictions_of(heads, torch.randn(4, 2)).shape == (2, 4)
    torch.nn.init.constant_(heads.heads[1].weight, float("inf"))
    with pytest.raises(ValueError, match="diverged at every learning rate"):
        predictions_of(heads, torch.randn(4, 2))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        run(model)


def test_one_image_a_class_leaves_none_to_choose_by(images, tmp_path):
    for split, count in (("train", 1), ("test", 2)):
        for folder in (images / split).iterdir():
            target = tmp_path / "few" / split / folder.name
            target.mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                shutil.copy(path, target)
    few = save(tmp_path / "model.pt", tmp_path / "few")
    with pytest.raises(ValueError, match=r"no class has two training images.*--linear_c 1"):
        run(few)
    assert run(few, linear_c=(1.0,))["train_images"] == 3


def test_from_python(model):
    result = multicrop.linear(model, linear_c=1.0, device="cpu")
    assert [row["epoch"] for row in result["results"]] == [0, 1.0]
    with pytest.raises(ValueError, match="did you mean 'linear_c'"):
        multicrop.linear(model, linearc=1.0)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(model):
    """The same images meet in the same step; sums in another order may turn an image or two."""
    settings = {
        "probe": "sgd",
        "epochs": "2",
        "crop_scale": "1 1",
        "lr": "0.1 3",
        "random_weights": "false",
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", *value.split())]
    two = result_of(launch("linear", model, *words, "--batch_size_per_gpu", "6", ranks=2))
    values = {"epochs": 2, "crop_scale": (1.0, 1.0), "lr": (0.1, 3.0)}
    alone = run(model, **{**SGD, **values})
    own, other = alone["results"][0], two["results"][0]
    assert other["peak_lr"] == own["peak_lr"] and other["lr"] == own["lr"]
    assert numbers(other) == pytest.approx(numbers(own), abs=9)


@pytest.mark.slow
def test_one_process_of_two_fits_and_both_compute_features(model):
    settings = {"linear_c": "0.1 1", "random_weights": "false"}
    words = [word for name, value in settings.items() for word in (f"--{name}", *value.split())]
    two = result_of(launch("linear", model, *words, ranks=2))
    alone = run(model, linear_c=(0.1, 1.0), random_weights=False)
    (own,), (other,) = alone["results"], two["results"]
    assert other["linear_c"] == own["linear_c"]
    assert numbers(other) == pytest.approx(numbers(own), abs=1)


def test_a_process_that_holds_no_features_has_the_labels():
    labels, mask = torch.tensor([3, 4, 5]), torch.tensor([True, False, True])
    features, kept = part_of(Known(torch.empty(0, 7), labels, torch.arange(3)), mask)
    assert features.shape == (0, 7) and kept.tolist() == [3, 5]
