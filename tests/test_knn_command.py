"""eval_knn.py: what it measures, what it says, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import launch, result_of, save_content
from PIL import Image
from safetensors.torch import load_file

from multicrop import cli
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import knn as command
from multicrop.config.knn import Recipe
from multicrop.datasets import image_folder, shapes
from multicrop.engine import checkpoint, seeds
from multicrop.probes.features import extract_features
from multicrop.probes.knn import knn
from multicrop.probes.linear import linear_probe
from multicrop.registry import backbone

ROOT = Path(__file__).parent.parent
TINY = {
    "arch": "vit",
    "image_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "num_layers": 2,
    "num_heads": 2,
}
FLAGS = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
FAST = ("--device", "cpu", "--max_train_images", "300", "--nb_knn", "5", "20")


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch):
    """The embedded data set, smaller; the calls that load it."""
    calls, whole = [], shapes.load

    def load(root, split, *options):
        calls.append(split)
        return whole(root, split, *options, train_images=400, test_images=60)

    monkeypatch.setattr(shapes, "load", load)
    monkeypatch.setattr(shapes, "DATASET", replace(shapes.DATASET, load=load))
    command.load.cache_clear()
    yield calls
    command.load.cache_clear()


def network(seed: int) -> torch.nn.Module:
    seeds.reseed(seed, "weights")
    return backbone(**TINY, in_channels=3)


def state(seed: int, step: int, kind: str = "ssl") -> dict:
    def encoder(seed):
        return {f"backbone.{name}": value for name, value in network(seed).state_dict().items()} | {
            "head.weight": torch.zeros(10, 24)
        }

    nets = (
        {"teacher": encoder(seed), "student": encoder(seed + 100)}
        if kind == "ssl"
        else {"model": encoder(seed)}
    )
    about = {
        "dataset": "shapes",
        "classes": [*shapes.CLASSES],
        "mean": [*shapes.VERSIONS[2].mean],
        "std": [*shapes.VERSIONS[2].std],
    }
    options = {**TINY, "in_channels": 3, "drop_path_rate": 0.1}
    return {
        "kind": kind,
        "step": step,
        "epoch": step / 2,
        "backbone": options,
        "data": about,
        "recipe": {"seed": 7},
        **nets,
    }


def run_folder(folder: Path) -> Path:
    folder.mkdir()
    for name, step in (
        ("checkpoint0002.pt", 4),
        ("checkpoint0010.pt", 20),
        (checkpoint.NEWEST, 24),
    ):
        save_content(state(step, step), folder / name)
    return folder


def probe(capsys, *words: object, code: int = 0, fast: tuple[str, ...] = FAST) -> tuple[dict, str]:
    """Run the script's main in this process: (the JSON of its last line, what it said to people)."""
    with pytest.raises(SystemExit) as end:
        cli.main(Recipe, command.run, [*map(str, words), *fast])
    out, err = capsys.readouterr()
    assert end.value.code == code, err
    return json.loads(out.strip().splitlines()[-1]) if code == 0 else {}, err


def of_checkpoints(found: dict) -> list[dict]:
    """The result's rows without the baselines."""
    names = ("raw pixels", "random weights")
    return [row for row in found["results"] if not row["checkpoint"].startswith(names)]


def random_row(found: dict) -> dict:
    (row,) = (row for row in found["results"] if row["checkpoint"].startswith("random weights"))
    return row


def refused(capsys, *words: object) -> str:
    """The one line with which the script ends."""
    _, err = probe(capsys, *words, code=2)
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


def bank_by_hand(features: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    train, test = (shapes.load(".", split) for split in ("train", "test"))
    chosen = torch.arange(300) * 400 // 300
    transform = EvalTransform(32, shapes.VERSIONS[2].mean, shapes.VERSIONS[2].std)
    banks = [
        extract_features(features, pixels, transform)
        for pixels in (train.pixels[chosen], test.pixels)
    ]
    return banks[0], train.labels[chosen], banks[1], test.labels


def by_hand(seed: int) -> dict[int, tuple[float, float]]:
    return knn(*bank_by_hand(network(seed)), k=(5, 20), classes=10)


@pytest.mark.slow
def test_a_run_gives_the_curve_over_its_checkpoints(tmp_path, capsys, small_shapes):
    folder = run_folder(tmp_path / "run")
    found, table = probe(capsys, folder)
    assert [row["step"] for row in of_checkpoints(found)] == [4, 20, 24]
    for row in of_checkpoints(found):
        expected = by_hand(row["step"])
        assert row["top1"] == pytest.approx(
            {str(k): both[0] for k, both in expected.items()}, abs=1e-3
        )
        assert row["top5"] == pytest.approx(
            {str(k): both[1] for k, both in expected.items()}, abs=1e-3
        )
        assert row["checkpoint"] in table
    assert small_shapes[:2] == ["train", "test"]
    assert len(small_shapes) == 2 + 2 * 3  # once for the script, and for each check by hand
    assert (found["train_images"], found["test_images"]) == (300, 60)
    assert found["status"] == "finished" and found["images_per_second"] > 0


def test_the_newest_is_not_probed_twice_when_the_run_has_kept_it(tmp_path, capsys):
    folder = run_folder(tmp_path / "run")
    save_content(state(20, 20), folder / checkpoint.NEWEST)
    found, _ = probe(capsys, folder)
    assert [row["step"] for row in of_checkpoints(found)] == [4, 20]


def test_random_weights_are_those_that_the_run_began_with(tmp_path, capsys):
    folder = run_folder(tmp_path / "run")
    save_content(
        state(7, 8), folder / "checkpoint0004.pt"
    )  # its weights are drawn from the recipe's seed
    found, _ = probe(capsys, folder)
    names = [row["checkpoint"] for row in found["results"]]
    assert names[:2] == ["raw pixels", "random weights, seed 7"] and len(names) == 6
    assert random_row(found)["top1"] == of_checkpoints(found)[1]["top1"]
    other, _ = probe(capsys, folder, "--random_weights", "--seed", 3)
    assert random_row(other)["top1"] != random_row(found)["top1"]


def test_raw_pixels_are_those_that_the_network_sees(tmp_path, capsys):
    save_content(state(3, 2), tmp_path / "x.pt")
    found, table = probe(capsys, tmp_path / "x.pt")
    row = found["results"][0]
    expected = knn(*bank_by_hand(torch.nn.Flatten()), k=(5, 20), classes=10)
    assert {name: row[name] for name in ("checkpoint", "arch", "image_size", "step", "epoch")} == {
        "checkpoint": "raw pixels", "arch": None, "image_size": 32, "step": None, "epoch": None,
    }  # fmt: skip
    assert row["top1"] == pytest.approx({str(k): v[0] for k, v in expected.items()}, abs=1e-3)
    assert row["top5"] == pytest.approx({str(k): v[1] for k, v in expected.items()}, abs=1e-3)
    assert "raw pixels" in table and "linear" not in table and row["linear_top1"] is None


def test_no_baseline_is_there_twice_and_each_can_be_left_out(tmp_path, capsys):
    """The second file is of the same architecture without dropout, as stage two's are."""
    other = state(1, 2, "finetune")
    other["backbone"]["drop_path_rate"] = 0.0
    save_content(state(1, 2), tmp_path / "a.pt")
    save_content(other, tmp_path / "b.pt")
    files = [tmp_path / "a.pt", tmp_path / "b.pt"]
    own = [*map(str, files)]

    def names(*words: object) -> list[str]:
        found, _ = probe(capsys, *files, *words)
        return [row["checkpoint"] for row in found["results"]]

    assert names() == ["raw pixels", "random weights, seed 7", *own]
    assert names("--raw_pixels", "false") == ["random weights, seed 7", *own]
    assert names("--raw_pixels", "false", "--random_weights", "false") == own


def test_raw_pixels_once_for_each_size_of_image(tmp_path, capsys):
    larger = state(1, 2)
    larger["backbone"]["image_size"] = 48
    options = larger["backbone"]
    for encoder in ("teacher", "student"):
        weights = backbone(**options).state_dict()
        larger[encoder] = {f"backbone.{name}": value for name, value in weights.items()}
    save_content(state(1, 2), tmp_path / "a.pt")
    save_content(larger, tmp_path / "b.pt")
    found, _ = probe(capsys, tmp_path / "a.pt", tmp_path / "b.pt", "--random_weights", "false")
    assert [(row["arch"], row["image_size"]) for row in found["results"]] == [
        (None, 32), ("vit", 32), (None, 48), ("vit", 48),
    ]  # fmt: skip


def test_the_linear_probe_stands_beside_k_nn(tmp_path, capsys):
    save_content(state(3, 2), tmp_path / "x.pt")
    found, table = probe(capsys, tmp_path / "x.pt", "--linear", "--linear_c", 0.1)
    for row, features in zip(
        found["results"], (torch.nn.Flatten(), network(7), network(3)), strict=True
    ):
        expected = linear_probe(*bank_by_hand(features), c=0.1)
        assert row["linear_top1"] == pytest.approx(expected, abs=1e-3)
        assert f"{expected:.2f}" in table
    assert found["linear_c"] == 0.1 and "linear" in table


def test_a_linear_probe_without_scikit_learn_is_refused_before_images_are_read(
    tmp_path, capsys, monkeypatch, small_shapes
):
    save_content(state(3, 2), tmp_path / "x.pt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install scikit-learn" in refused(capsys, tmp_path / "x.pt", "--linear")
    assert small_shapes == []


def test_random_weights_need_no_checkpoint(capsys):
    found, _ = probe(capsys, *FLAGS, "--seed", 4)
    assert [row["checkpoint"] for row in found["results"]] == [
        "raw pixels",
        "random weights, seed 4",
    ]
    assert random_row(found)["top1"] == pytest.approx(
        {str(k): v[0] for k, v in by_hand(4).items()}, abs=1e-3
    )


@pytest.mark.slow
def test_teacher_or_student_or_a_finetuned_backbone(tmp_path, capsys):
    save_content(state(1, 2), tmp_path / "ssl.pt")
    save_content(state(1, 2, "finetune"), tmp_path / "finetuned.pt")
    both, _ = probe(capsys, tmp_path / "ssl.pt", tmp_path / "finetuned.pt")
    student, _ = probe(capsys, tmp_path / "ssl.pt", "--checkpoint_key", "student")
    pretrained, finetuned = of_checkpoints(both)
    assert pretrained["top1"] == finetuned["top1"]
    assert student["results"][-1]["top1"] == pytest.approx(
        {str(k): v[0] for k, v in by_hand(101).items()}, abs=1e-3
    )


def test_a_bare_state_dict_is_described_by_flags(tmp_path, capsys):
    torch.save(network(5).state_dict(), tmp_path / "bare.pth")
    found, _ = probe(capsys, tmp_path / "bare.pth", *FLAGS)
    assert found["results"][-1]["top1"] == pytest.approx(
        {str(k): v[0] for k, v in by_hand(5).items()}, abs=1e-3
    )
    assert "does not fit --arch vit" in refused(
        capsys, tmp_path / "bare.pth", *FLAGS, "--num_layers", 3
    )


@pytest.mark.parametrize("name", ["new/f.safetensors", "f.pt"])
def test_saved_features_give_the_same_accuracy(tmp_path, capsys, name):
    save_content(state(2, 2), tmp_path / "x.pt")
    found, _ = probe(capsys, tmp_path / "x.pt", "--save_features", tmp_path / name)
    bank = (
        load_file(tmp_path / name) if name.endswith("safetensors") else torch.load(tmp_path / name)
    )
    assert bank["train_features"].shape == (300, 24) and bank["test_labels"].shape == (60,)
    again = knn(**bank, k=(20,), classes=10)[20]
    assert again == pytest.approx(
        (found["results"][-1]["top1"]["20"], found["results"][-1]["top5"]["20"]), abs=1e-3
    )


def test_more_neighbours_than_images(capsys):
    found, said = probe(
        capsys,
        *FLAGS,
        "--nb_knn",
        5,
        100,
        200,
        "--max_train_images",
        12,
        fast=(),
    )
    assert all(list(row["top1"]) == ["5", "12"] for row in found["results"])
    assert "limited by the number of training images: using 5, 12" in said


def class_folders(root: Path, **counts: tuple[int, int]) -> Path:
    """Random images in root/<split>/{a,b}/, so many of each class."""
    for split, numbers in counts.items():
        for name, number in zip("ab", numbers, strict=True):
            for i in range(number):
                pixels = np.random.default_rng([ord(name), i]).integers(
                    255, size=(16, 16, 3), dtype=np.uint8
                )
                (root / split / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / split / name / f"{split}{i}.png")
    return root


def test_another_data_set_and_a_single_test_image(tmp_path, capsys):
    save_content(state(3, 2), tmp_path / "x.pt")
    root = class_folders(tmp_path / "data", train=(4, 4), test=(0, 1))
    found, said = probe(capsys, tmp_path / "x.pt", "--dataset", "image_folder", "--datapath", root)
    assert (found["train_images"], found["test_images"]) == (8, 1)
    assert found["results"][-1]["top1"]["5"] in (0.0, 100.0)
    assert "image_folder: 1 test images among 8 training images" in said


def test_image_files_are_stored_as_the_checkpoints_own_script_stored_them(
    tmp_path, capsys, monkeypatch
):
    root, sides = class_folders(tmp_path / "data", train=(4, 4), test=(1, 1)), []
    whole = image_folder.load

    def load(root, split, options):
        sides.append(options.source_size)
        return whole(root, split, options)

    monkeypatch.setattr(image_folder, "DATASET", replace(image_folder.DATASET, load=load))
    for kind in ("ssl", "finetune"):
        save_content(state(3, 2, kind), tmp_path / f"{kind}.pt")
        probe(capsys, tmp_path / f"{kind}.pt", "--dataset", "image_folder", "--datapath", root)
    assert sides == [64, 64, 32, 32]


def test_what_it_refuses(tmp_path, capsys):
    good, folder = tmp_path / "x.pt", tmp_path / "images"
    save_content(state(1, 2), good)
    class_folders(folder, train=(2, 2))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no checkpoint at" in refused(capsys, tmp_path / "none.pt")
    assert "no checkpoint at" in refused(capsys, empty)
    assert "nothing to probe" in refused(capsys)
    assert "nothing to probe" in refused(capsys, "--arch", "vit", "--random_weights", "false")
    assert "--linear_c 0.0: must be positive" in refused(capsys, good, "--linear_c", 0)
    assert "has no labels" in refused(capsys, good, "--dataset", "images", "--datapath", folder)
    assert "--arch swin, but" in refused(capsys, good, "--arch", "swin")
    assert "must end in .safetensors or .pt" in refused(capsys, good, "--save_features", "x.npz")
    assert "cannot write --save_features" in refused(
        capsys, good, "--save_features", good / "below_a_file.pt"
    )
    assert "--temperature 0.0: must be positive" in refused(capsys, good, "--temperature", 0)
    assert "did you mean 'temperature'" in refused(capsys, good, "--temprature", 1)
    assert "'shapes'" in refused(capsys, good, "--dataset", "shape")


def test_a_damaged_checkpoint_is_one_line_and_does_not_stop_the_others(tmp_path, capsys):
    folder = run_folder(tmp_path / "run")
    broken = folder / "checkpoint0002.pt"
    broken.write_bytes(broken.read_bytes()[:500])
    assert "damaged" in refused(capsys, broken)
    found, said = probe(capsys, folder)
    assert [row["step"] for row in of_checkpoints(found)] == [20, 24]
    assert any(line.startswith(f"left out: {broken}") for line in said.splitlines())


def test_weights_that_have_diverged_are_named(tmp_path, capsys):
    broken = state(1, 2)
    broken["teacher"]["backbone.cls_token"] = torch.full_like(
        broken["teacher"]["backbone.cls_token"], float("nan")
    )
    save_content(broken, tmp_path / "x.pt")
    assert f"{tmp_path / 'x.pt'}: the training features are not finite" in refused(
        capsys, tmp_path / "x.pt"
    )


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path, capsys):
    save_content(state(3, 2), tmp_path / "x.pt")
    root = class_folders(tmp_path / "data", train=(9, 8), test=(5, 6))
    words = [
        tmp_path / "x.pt",
        "--dataset",
        "image_folder",
        "--datapath",
        root,
        "--nb_knn",
        3,
        "--linear",
    ]
    files = [tmp_path / name for name in ("alone.safetensors", "two.safetensors")]
    alone, _ = probe(capsys, *words, "--save_features", files[0], fast=("--device", "cpu"))
    two = result_of(launch("eval_knn.py", *words, "--save_features", files[1], ranks=2))
    assert alone["results"] == two["results"]
    bank, bank_of_two = load_file(files[0]), load_file(files[1])
    for name, value in bank.items():
        torch.testing.assert_close(bank_of_two[name], value)
