"""finetune.py --eval: which images it scores, by the checkpoint's classes, and where its results go."""

import io
import json
import shutil
import tarfile

import pytest
import torch
from conftest import content_of, save_content
from finetuning import PLAIN, run

from multicrop.commands import _scored, pack
from multicrop.config.pack import Recipe as Pack
from multicrop.datasets import _cache, _console, image_folder


@pytest.fixture(scope="module")
def trained(colours, tmp_path_factory):
    """A run on train/ and test/, its folder and its result."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, run(colours, folder, **PLAIN, lr=0.01, epochs=4, warmup=1)


@pytest.fixture
def photos(colours, tmp_path):
    """Twelve labelled images in class folders: 4 of each of the test images."""
    root = tmp_path / "photos"
    for name in ("red", "green", "blue"):
        copy(colours / "test" / name, root / name, 4)
    return root


def copy(source, target, count: int):
    target.mkdir(parents=True)
    for path in sorted(source.iterdir())[:count]:
        shutil.copy(path, target)


def evaluate(images, trained, folder, **flags) -> dict:
    weights = str(trained[0] / "checkpoint.pt")
    return run(images, folder, eval=True, pretrained_weights=weights, **flags)


def snapshot(folder) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_of_a_run_folder_it_is_said_what_is_scored_and_what_else_is_there(
    colours, trained, tmp_path, capsys
):
    folder = trained[0]
    wanted = (
        f"these are the weights of {folder / 'checkpoint.pt'}, after epoch 4; the run has also kept best.pt, which "
        f"the validation images selected: --pretrained_weights {folder / 'best.pt'} takes it"
    )
    run(colours, tmp_path / "out", eval=True, pretrained_weights=str(folder))
    assert capsys.readouterr().err.count(wanted) == 1
    run(colours, tmp_path / "out2", eval=True, pretrained_weights=str(folder / "best.pt"))
    assert "has also kept" not in capsys.readouterr().err


# Which images


def test_every_image_of_class_folders_is_scored(photos, trained, tmp_path, capsys):
    result = evaluate(photos, trained, tmp_path / "out")
    assert result["images"] == 12
    assert f"scoring all images of {photos}: 12 images in 3 classes" in capsys.readouterr().err
    counts = torch.tensor(json.loads((tmp_path / "out" / "confusion.json").read_text())["counts"])
    assert counts.sum(1).tolist() == [4, 4, 4]
    assert result["test_top1"] == pytest.approx(100 * counts.diag().sum().item() / 12, abs=1e-3)


def test_a_data_set_with_both_splits_is_scored_on_its_test_split(
    colours, trained, tmp_path, capsys
):
    result = evaluate(colours, trained, tmp_path / "out")
    assert result["images"] == 24 and result["test_loss"] == trained[1]["test_loss"]
    assert f"scoring the test split of {colours}: 24 images" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["test", "."])
def test_a_test_folder_alone_is_scored(photos, trained, tmp_path, given):
    root = tmp_path / "alone"
    shutil.copytree(photos, root / "test")
    assert evaluate(root / given, trained, tmp_path / "out")["images"] == 12


def test_some_of_the_classes_are_enough_and_the_others_are_said(photos, trained, tmp_path, capsys):
    shutil.rmtree(photos / "green")
    (photos / "notes").mkdir()
    result = evaluate(photos, trained, tmp_path / "out")
    assert result["images"] == 8
    assert "1 of 3 classes have no images here: green" in capsys.readouterr().err
    stored = json.loads((tmp_path / "out" / "confusion.json").read_text())
    assert stored["classes"] == ["blue", "green", "red"]
    assert [sum(row) for row in stored["counts"]] == [4, 0, 4]


def test_one_image_is_scored(photos, trained, tmp_path):
    for name in ("red", "green"):
        shutil.rmtree(photos / name)
    for path in sorted((photos / "blue").iterdir())[1:]:
        path.unlink()
    assert evaluate(photos, trained, tmp_path / "out")["images"] == 1


def test_images_that_were_trained_on_are_not_scored_with_the_others(colours, tmp_path, capsys):
    """Of class folders without a split a tenth was held out, wherever the folder lies now."""
    images = tmp_path / "images"
    shutil.copytree(colours / "train", images)
    result = run(images, tmp_path / "run", **PLAIN, epochs=1)
    moved = tmp_path / "moved"
    images.rename(moved)
    found = run(moved, tmp_path / "run", eval=True)
    assert found["images"] == 6 and found["test_loss"] == result["test_loss"]
    assert "scoring the test split of" in capsys.readouterr().err
    for path in sorted((moved / "red").iterdir()):  # other images of these names
        path.write_bytes((moved / "blue" / "00.png").read_bytes())
    assert run(moved, tmp_path / "run", eval=True)["images"] == 60


def write_table(photos, folder, name="labels"):
    """A table of the photos, and where they lie."""
    shutil.copytree(photos, folder / "photos")
    paths = sorted((folder / "photos").rglob("*.png"))
    lines = [f"{path.relative_to(folder)},{path.parent.name}" for path in paths]
    (folder / f"{name}.csv").write_text("\n".join(["file,label", *lines, ""]))


def write_parquet(photos, folder, name="images"):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    paths = sorted(photos.rglob("*.png"))
    cells = {
        "image": [path.read_bytes() for path in paths],
        "label": [path.parent.name for path in paths],
    }
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(cells), folder / f"{name}.parquet")


def write_shard(photos, folder, name="images"):
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"{name}.tar", "w") as archive:
        for number, path in enumerate(sorted(photos.rglob("*.png"))):
            for ending, content in (("png", path.read_bytes()), ("cls", path.parent.name.encode())):
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


WRITERS = {"table": write_table, "parquet": write_parquet, "webdataset": write_shard}


@pytest.mark.parametrize("name", ["images", "test"])
@pytest.mark.parametrize("dataset", WRITERS)
def test_every_image_of_rows_without_a_split_is_scored(
    photos, trained, tmp_path, capsys, dataset, name
):
    _console.forget()
    WRITERS[dataset](photos, tmp_path / "given", name)
    result = evaluate(tmp_path / "given", trained, tmp_path / "out", dataset=dataset)
    assert result["images"] == 12
    said = capsys.readouterr().err
    assert "scoring all images of" in said and "held out" not in said
    folders = evaluate(photos, trained, tmp_path / "folders")
    assert result["test_loss"] == pytest.approx(folders["test_loss"], abs=1e-6)


@pytest.mark.parametrize("dataset", WRITERS)
def test_of_rows_with_both_splits_the_test_images_are_scored(photos, trained, tmp_path, dataset):
    for name in ("train", "test"):
        part = tmp_path / name
        shutil.copytree(photos, part)
        if name == "test":
            shutil.rmtree(part / "green")
        if dataset == "table":
            write_table(part, tmp_path / "given" / name, name)
            shutil.move(
                tmp_path / "given" / name / f"{name}.csv", tmp_path / "given" / f"{name}.csv"
            )
        else:
            WRITERS[dataset](part, tmp_path / "given", name)
    assert evaluate(tmp_path / "given", trained, tmp_path / "out", dataset=dataset)["images"] == 8


def test_rows_that_were_trained_on_are_not_scored_with_the_others(colours, tmp_path):
    write_table(colours / "train", tmp_path / "given")
    run(tmp_path / "given", tmp_path / "run", **PLAIN, epochs=1, dataset="table")
    assert run(tmp_path / "given", tmp_path / "run", eval=True, dataset="table")["images"] == 6


@pytest.mark.parametrize("given", ["test", "scans"])
def test_a_packed_file_alone_is_scored(colours, trained, tmp_path, given):
    pack.run(Pack(str(colours), str(tmp_path / "packed")))
    (tmp_path / "given").mkdir()
    file = tmp_path / "given" / f"{given}.lmdb"
    shutil.copy(tmp_path / "packed" / "test.lmdb", file)
    folder = file if given == "scans" else file.parent
    assert evaluate(folder, trained, tmp_path / "out", dataset="lmdb")["images"] == 24


def test_it_is_not_said_that_images_are_held_out_which_are_all_scored(
    photos, trained, tmp_path, capsys
):
    _console.forget()
    evaluate(photos, trained, tmp_path / "out")
    said = capsys.readouterr().err
    assert "scoring all images of" in said and "no test split" not in said


# Classes


def test_classes_go_by_their_names(colours, trained, tmp_path):
    """A checkpoint whose classes are in another order than the folders."""
    state = content_of(trained[0] / "checkpoint.pt")
    order = [2, 0, 1]
    state["data"]["classes"] = [state["data"]["classes"][label] for label in order]
    for name in ("head.weight", "head.bias"):
        state["model"][name] = state["model"][name][order]
    save_content(state, tmp_path / "other.pt")
    result = run(
        colours, tmp_path / "out", eval=True, pretrained_weights=str(tmp_path / "other.pt")
    )
    assert result["test_loss"] == pytest.approx(trained[1]["test_loss"], rel=1e-5)


def test_a_class_that_the_checkpoint_does_not_know_is_one_line(
    photos, trained, tmp_path, monkeypatch
):
    (photos / "blue").rename(photos / "owl")
    monkeypatch.setattr(_scored, "image_set", None)  # said before anything is decoded
    with pytest.raises(
        ValueError, match=r"photos has images of owl, which .*checkpoint\.pt does not know: it was"
    ):
        evaluate(photos, trained, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Results


def test_results_go_to_the_output_folder_and_nothing_else_is_touched(photos, trained, tmp_path):
    before = snapshot(trained[0])
    result = evaluate(photos, trained, tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"result.json", "confusion.json", "confusion.png"}
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
    assert snapshot(trained[0]) == before


def test_a_run_folder_keeps_what_its_training_wrote(photos, trained, tmp_path, monkeypatch):
    before = snapshot(trained[0])
    monkeypatch.chdir(tmp_path)
    place = trained[0] / "eval" / "checkpoint-photos"
    for folder in (trained[0], "runs/finetune"):  # the run's own, and the default: none is given
        assert evaluate(photos, trained, folder)["output_dir"] == str(place)
        assert (place / "confusion.json").exists() and (place / "result.json").exists()
        shutil.rmtree(trained[0] / "eval")
    assert snapshot(trained[0]) == before and not (tmp_path / "runs").exists()


def test_where_no_folder_can_be_made_the_result_is_still_printed(trained, photos, tmp_path, capsys):
    shutil.copy(trained[0] / "best.pt", tmp_path / "best.pt")
    (tmp_path / "eval").touch()
    weights = str(tmp_path / "best.pt")
    result = run(photos, "runs/finetune", eval=True, pretrained_weights=weights)
    assert result["output_dir"] is None and result["images"] == 12
    assert "warning: cannot make the folder of the results" in capsys.readouterr().err
    with pytest.raises(OSError, match="choose another --output_dir"):
        run(photos, tmp_path / "eval" / "x", eval=True, pretrained_weights=weights)


def test_the_training_split_is_not_decoded(colours, trained, tmp_path, monkeypatch):
    decoded = []
    load = _cache.load_cached

    def listed(root, names, *rest):
        decoded.append(len(names))
        return load(root, names, *rest)

    monkeypatch.setattr("multicrop.datasets._folders.load_cached", listed)
    evaluate(colours, trained, tmp_path / "out")
    assert decoded == [24]
    assert image_folder.unsplit(colours) is None


def test_the_folder_may_be_wrapped_and_its_split_be_written_in_any_case(photos, trained, tmp_path):
    root = tmp_path / "outer"
    shutil.copytree(photos, root / "set" / "Testing")
    assert evaluate(root, trained, tmp_path / "out")["images"] == 12
