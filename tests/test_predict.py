"""multicrop predict: rows of any images, equal to what --eval measures; and what it refuses."""

import csv
import json
import os
import shutil
import signal
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import content_of, launch, recipe, result_of, save_content
from PIL import Image

import multicrop
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import _image_stream, predict
from multicrop.config.predict import Recipe
from multicrop.datasets import image_folder
from multicrop.datasets._images import LoadOptions
from multicrop.datasets._tree import Node
from multicrop.registry import backbone
from multicrop.supervised.classifier import Classifier

OPTIONS = {"arch": "vit", "image_size": 16, "embed_dim": 16, "num_layers": 2, "num_heads": 2}
OPTIONS |= {"in_channels": 3, "drop_path_rate": 0.0}
CLASSES = ["blue", "green", "red"]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
T = 0.4


def network() -> Classifier:
    torch.manual_seed(0)
    model = Classifier(backbone(**OPTIONS), 3).eval()
    model.head.weight.data *= 30  # probabilities that differ
    with torch.no_grad():  # and images of several classes
        model.head.bias -= model(torch.randn(90, 3, 16, 16)).mean(0)
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random classifier with a temperature."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    data = {"dataset": "image_folder", "classes": CLASSES, "mean": MEAN, "std": STD}
    content = {"kind": "finetune", "backbone": OPTIONS, "recipe": {}, "data": data}
    fit = {"temperature": T, "images": 50, "nll": 1.0, "nll_before": 1.1}
    content |= {"calibration": {"model": fit}, "model": network().state_dict()}
    save_content(content, path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Images of several sizes and shapes, in two folders; one file is none."""
    random = np.random.default_rng(0)
    for number, size in enumerate([(16, 16), (40, 30), (16, 16), (9, 20), (64, 64)]):
        folder = tmp_path / "photos" / ("a" if number < 3 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "photos" / "b" / "2.jpg").write_text("no image")
    return tmp_path / "photos"


IN_ORDER = ["a/0.png", "a/1.png", "a/2.png", "b/2.jpg", "b/3.png", "b/4.png"]


def run(model, *images, output, **values) -> dict:
    words = tuple(map(str, images))
    settings = {"device": "cpu", "batch_size": 4, "workers": 1, **values}
    return predict.run(
        recipe(Recipe, model=str(model), images=words, output=str(output), **settings)
    )


def table(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def probabilities(images: torch.Tensor, temperature: float = T) -> torch.Tensor:
    transform = EvalTransform(16, tuple(MEAN), tuple(STD))
    with torch.no_grad():
        return (network()(transform(images)) / temperature).softmax(1)


# Rows


def test_every_image_has_its_row_in_order_and_an_unreadable_one_its_reason(
    model, photos, tmp_path, capsys
):
    output = tmp_path / "out" / "rows.csv"
    result = run(model, photos, output=output)
    rows = table(output)
    assert [row["file"] for row in rows] == [f"{photos}/{name}" for name in IN_ORDER]
    assert [row["error"] for row in rows] == ["", "", "", "not an image, or damaged", "", ""]
    assert rows[3]["class"] == rows[3]["probability"] == ""
    assert (result["images"], result["unreadable"], result["temperature"]) == (6, 1, T)
    assert sorted(path.name for path in output.parent.iterdir()) == ["rows.csv"]
    assert "temperature 0.4, fitted on 50 validation images" in capsys.readouterr().err


@pytest.mark.parametrize("calibrated", [True, False])
def test_predictions_are_those_of_eval(model, colours, tmp_path, calibrated):
    output = tmp_path / "rows.jsonl"
    run(model, colours / "test", output=output, topk=3, calibrated=calibrated, batch_size=5)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    images = image_folder.load(colours, "test", LoadOptions(source_size=16))  # as --eval reads them
    expected = probabilities(images.pixels, T if calibrated else 1.0)
    for row, wanted in zip(rows, expected, strict=True):
        assert row["class"] == CLASSES[wanted.argmax()] == row["top"][0][0]
        found = dict(row["top"])
        for name, probability in zip(CLASSES, wanted.tolist(), strict=True):
            assert found[name] == pytest.approx(probability, abs=1e-6)
        assert [p for _, p in row["top"]] == sorted(found.values(), reverse=True)
    hits = [row["class"] == row["file"].split("/")[-2] for row in rows]
    scored = multicrop.finetune(
        eval=True,
        pretrained_weights=model,
        datapath=colours,
        device="cpu",
        output_dir=tmp_path / "eval",
    )
    assert scored["test_top1"] == pytest.approx(100 * np.mean(hits), abs=1e-2)


def test_images_of_any_shape_are_read_as_eval_reads_them(model, photos, tmp_path):
    """In class folders, where --eval takes them."""
    (photos / "b" / "2.jpg").unlink()
    output = tmp_path / "rows.jsonl"
    run(model, photos, output=output, topk=3, calibrated=False)
    whole = image_folder.unsplit(photos)
    images = image_folder.image_set(whole, LoadOptions(source_size=16))
    for row, wanted in zip(
        map(json.loads, output.read_text().splitlines()),
        probabilities(images.pixels, 1.0),
        strict=True,
    ):
        assert row["probability"] == pytest.approx(wanted.max().item(), abs=1e-6)


def test_mirrored_images_are_averaged(model, colours, tmp_path):
    run(model, colours / "test", output=tmp_path / "rows.csv", tta=True)
    pixels = image_folder.load(colours, "test", LoadOptions(source_size=16)).pixels
    expected = (probabilities(pixels) + probabilities(pixels.flip(-1))) / 2
    found = [float(row["probability"]) for row in table(tmp_path / "rows.csv")]
    assert found == pytest.approx(expected.max(1).values.tolist(), abs=1e-6)


def test_a_class_is_unknown_below_a_threshold_and_its_probability_stays(model, colours, tmp_path):
    run(model, colours / "test", output=tmp_path / "all.csv")
    whole = table(tmp_path / "all.csv")
    middle = float(np.median([float(row["probability"]) for row in whole]))
    result = run(
        model, colours / "test", output=tmp_path / "some.csv", unknown_below=middle, topk=2
    )
    some = table(tmp_path / "some.csv")
    for before, after in zip(whole, some, strict=True):
        below = float(before["probability"]) < middle
        assert after["class"] == ("unknown" if below else before["class"])
        assert after["probability"] == before["probability"] and after["class_1"] == before["class"]
    unknown = sum(row["class"] == "unknown" for row in some)
    assert 0 < unknown == result["unknown"] < len(some)


def test_the_formats_say_the_same(model, photos, tmp_path, capfdbinary):
    pq = pytest.importorskip("pyarrow.parquet")
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        run(model, photos, output=tmp_path / name, topk=2)
    columns = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    cells = table(tmp_path / "rows.csv")
    for column, line, cell in zip(columns, map(json.loads, lines), cells, strict=True):
        for name in ("file", "class", "probability", "error"):
            assert column[name] == line[name]
            assert cell[name] == ("" if line[name] is None else cell[name])
        assert column["top_classes"] == [name for name, _ in line["top"]]
        if line["error"] is None:
            assert float(cell["probability_2"]) == pytest.approx(line["top"][1][1], rel=1e-7)
    run(model, photos, output=tmp_path / "plain", format="csv", topk=2)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "rows.csv").read_bytes()
    capfdbinary.readouterr()
    run(model, photos, output="-", topk=2)
    assert capfdbinary.readouterr().out == (tmp_path / "rows.csv").read_bytes()


def test_standard_output_has_rows_only(model, photos):
    process = launch("predict", model, photos, "--output", "-", "--workers", 1)
    assert len(process.stdout.splitlines()) == 7
    assert json.loads(process.stderr.splitlines()[-1])["images"] == 6


# Which images


def test_words_are_read_in_their_order_whatever_they_are(model, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos.parent)
    with zipfile.ZipFile("more.zip", "w") as archive:
        archive.write("photos/a/1.png", "x/1.png")
        archive.write("photos/b/4.png", "y/4.png")
    words = ["photos/b/4.png", "more.zip", "photos/a/*.png", "photos/b/2.jpg", "photos/b"]
    run(model, *words, output="rows.csv")
    assert [row["file"] for row in table("rows.csv")] == [
        "photos/b/4.png", "more.zip/x/1.png", "more.zip/y/4.png", "photos/a/0.png", "photos/a/1.png", "photos/a/2.png",
        "photos/b/2.jpg", "photos/b/2.jpg", "photos/b/3.png", "photos/b/4.png",
    ]  # fmt: skip
    # An image is the same wherever it stands, but for the last digit of products of other rows
    first, third, last = (float(table("rows.csv")[row]["probability"]) for row in (0, 2, 9))
    assert first == pytest.approx(third, rel=1e-6) and first == pytest.approx(last, rel=1e-6)


def test_a_compressed_archive_is_read(model, photos, tmp_path):
    shutil.make_archive(str(tmp_path / "packed"), "gztar", photos)
    run(model, tmp_path / "packed.tar.gz", output=tmp_path / "packed.csv")
    run(model, photos, output=tmp_path / "rows.csv")
    packed, plain = table(tmp_path / "packed.csv"), table(tmp_path / "rows.csv")
    assert [row["probability"] for row in packed] == [row["probability"] for row in plain]


def test_a_data_set_without_labels_is_predicted_as_a_whole(model, photos, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    files = sorted(photos.rglob("*.png"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"image": images}), tmp_path / "set" / "images.parquet")
    data = {"dataset": "parquet", "datapath": str(tmp_path / "set")}
    run(model, output=tmp_path / "rows.csv", **data)
    assert len(table(tmp_path / "rows.csv")) == len(files)
    with pytest.raises(ValueError, match="no labels, and so there is no test split"):
        run(model, output=tmp_path / "rows.csv", split="test", **data)


def test_a_table_beside_other_words_is_refused(model, photos, tmp_path):
    (photos / "some.csv").write_text("id\n0\n")
    with pytest.raises(
        ValueError, match=r"some\.csv is a table of images, and has to be named alone"
    ):
        run(model, photos / "some.csv", photos, output=tmp_path / "rows.csv")


def test_what_is_no_image_is_left_out_with_a_line(model, photos, tmp_path, capsys):
    (photos / "a" / "notes.txt").write_text("")
    (photos / "README").write_text("")
    (photos / "b" / "gone.png").symlink_to(tmp_path / "nowhere")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(photos / "a" / "0.png", "0.png")
        archive.writestr("labels.csv", "")
    result = run(model, photos, tmp_path / "more.zip", output=tmp_path / "rows.csv")
    said = capsys.readouterr().err.splitlines()
    assert result["images"] == len(IN_ORDER) + 1
    (line,) = (line for line in said if line.startswith(f"left out of {photos}"))
    for words in ("1 .txt", "1 readme", "1 broken link"):
        assert words in line
    assert f"left out of {tmp_path / 'more.zip'}, no images: 1 .csv" in said


def test_names_of_several_folders_and_archives_lead_to_their_images(model, photos, tmp_path):
    """Whatever the images of a data set lie in."""
    shutil.make_archive(str(tmp_path / "packed"), "zip", photos)
    for root in (photos, tmp_path / "packed.zip"):
        data = {"dataset": "images", "datapath": str(root), "split": "train"}
        run(model, **data, output=tmp_path / "rows.csv")
        names = [row["file"] for row in table(tmp_path / "rows.csv")]
        assert names == [f"{root}/{name}" for name in IN_ORDER]
    data["datapath"] = f"{photos}/a,{photos}/b"
    run(model, **data, output=tmp_path / "rows.csv")
    names = [row["file"] for row in table(tmp_path / "rows.csv")]
    assert names == [f"{photos}/{name}" for name in IN_ORDER]


def test_that_no_image_can_be_read_is_said(model, tmp_path, capsys):
    (tmp_path / "readme.txt").write_text("no image")
    run(model, tmp_path / "readme.txt", output=tmp_path / "rows.csv")
    assert "warning: none of these images could be read" in capsys.readouterr().err


def test_a_table_has_a_row_for_each_of_its_rows_by_their_names(model, photos, tmp_path):
    lines = ["id,split", "4,test", "nowhere,train", "0,test", "4,train"]
    (photos / "some.csv").write_text("\n".join(lines))
    run(model, photos / "some.csv", output=tmp_path / "rows.csv")
    rows = table(tmp_path / "rows.csv")
    assert [row["file"] for row in rows] == ["4", "nowhere", "0", "4"]
    assert rows[0]["probability"] == rows[3]["probability"] != ""
    assert rows[1]["error"] == "No such file or directory"


@pytest.mark.parametrize("dataset", ["image_folder", "table"])
def test_a_class_that_the_training_set_lacks_is_predicted(model, photos, tmp_path, capsys, dataset):
    """No label is needed; what the labels are is kept for embed."""
    names = {"train": ["a/0.png", "b/3.png"], "test": ["a/1.png", "b/4.png", "odd/2.png"]}
    rows = ["file,label,split"]
    for split, files in names.items():
        for name in files:
            (tmp_path / "set" / split / name).parent.mkdir(parents=True, exist_ok=True)
            source = photos / ("a/2.png" if "odd" in name else name)
            shutil.copy(source, tmp_path / "set" / split / name)
            rows.append(f"{split}/{name},{name.split('/')[0]},{split}")
    if dataset == "table":
        (tmp_path / "set/labels.csv").write_text("\n".join(rows))
    data = {"dataset": dataset, "datapath": str(tmp_path / "set")}
    assert run(model, **data, output=tmp_path / "rows.csv")["images"] == 3
    read = [row["file"] for row in table(tmp_path / "rows.csv") if not row["error"]]
    assert [name[-9:] for name in read] == ["t/a/1.png", "t/b/4.png", "odd/2.png"]
    said = capsys.readouterr().err
    assert said.count("that the training split does not have: read all the same") == 1
    multicrop.embed(model, output=tmp_path / "rows.npz", device="cpu", workers=1, **data)
    stored = np.load(tmp_path / "rows.npz")
    assert [stored["classes"][label] for label in stored["labels"]] == ["a", "b", "odd"]


def test_folders_are_walked_once(model, photos, tmp_path, monkeypatch):
    walked = []
    scan = Node._scan
    monkeypatch.setattr(
        Node, "_scan", lambda node, folder: walked.append(folder) or scan(node, folder)
    )
    run(model, photos, output=tmp_path / "rows.csv")
    assert sorted(walked) == [photos, photos / "a", photos / "b"]


def test_a_data_set_is_named_and_its_images_need_be_no_files(model, colours, tmp_path):
    run(model, dataset="image_folder", datapath=str(colours), output=tmp_path / "a.csv")
    run(model, colours / "test", output=tmp_path / "b.csv")
    named, plain = table(tmp_path / "a.csv"), table(tmp_path / "b.csv")
    assert [row["probability"] for row in named] == [row["probability"] for row in plain]
    assert [row["file"] for row in named] == [row["file"] for row in plain]
    split = {"dataset": "image_folder", "datapath": str(colours), "split": "train"}
    assert run(model, **split, output=tmp_path / "a.csv")["images"] == 60
    train = {row["file"] for row in table(tmp_path / "a.csv")}
    assert not train & {row["file"] for row in plain} and all(map(os.path.isfile, train))
    assert run(model, dataset="shapes", output=tmp_path / "s.csv", batch_size=500)["images"] == 1000
    assert table(tmp_path / "s.csv")[3]["file"] == "test/3"


# Interrupted, and of several processes


def test_an_interrupted_command_goes_on_where_it_was(model, colours, tmp_path, monkeypatch, capsys):
    run(model, colours / "test", output=tmp_path / "whole.csv")
    decoded, stopping = [], True
    batches = _image_stream.ImageStream.batches

    def noted(self, start, stop, size):
        for batch in batches(self, start, stop, size):
            if stopping and len(decoded) == 2:
                signal.raise_signal(signal.SIGTERM)
            decoded.append(batch.start)
            yield batch

    monkeypatch.setattr(_image_stream.ImageStream, "batches", noted)
    output = tmp_path / "rows.csv"
    result = run(model, colours / "test", output=output)
    assert (result["status"], result["done"]) == ("interrupted", 8)
    partial = tmp_path / "rows.csv.partial"
    assert not output.exists() and len(partial.read_text().splitlines()) == 1 + 8
    partial.write_text(partial.read_text() + "[[0,")  # what a killed process may leave
    stopping = False
    assert run(model, colours / "test", output=output)["status"] == "finished"
    assert decoded[-4:] == [8, 12, 16, 20]
    assert "going on after 8 images" in capsys.readouterr().err
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes() and not partial.exists()


def stopped(model, *images, output, batches: int = 2, **values) -> None:
    """What an interrupted command leaves."""
    with pytest.MonkeyPatch.context() as patch:
        watched = predict.watched
        patch.setattr(predict, "watched", lambda *words: list(watched(*words))[:batches])
        assert run(model, *images, output=output, **values)["status"] == "interrupted"


def test_what_was_begun_with_other_settings_is_begun_again_and_that_is_said(
    model, colours, tmp_path, capsys
):
    output, partial = tmp_path / "rows.csv", tmp_path / "rows.csv.partial"
    stopped(model, colours / "test", output=output)
    stopped(model, colours / "test", output=output, topk=2)
    assert f"{partial} is of an interrupted run with other --topk: begun again" in said(capsys)
    stopped(model, colours / "train", output=output, topk=2, batches=0)
    assert f"{partial} is of an interrupted run with other images: begun again" in said(capsys)
    run(model, colours / "test", output=output)
    assert "begun again" not in said(capsys)  # there was no row
    partial.write_text("[1]\nnothing of ours\n")
    run(model, colours / "test", output=output)
    assert "with other content: begun again" in said(capsys)
    assert len(table(output)) == 24 and not list(tmp_path.glob("*.partial*"))


def test_what_another_number_of_processes_has_begun_is_begun_again(
    model, colours, tmp_path, capsys
):
    others = ("rows.csv.partial.0", "rows.csv.partial.1", "rows.csv.partial.1.vectors")
    for name in (*others, "rows.csv.partially"):
        (tmp_path / name).write_text("{}\n[]\n")
    run(model, colours / "test", output=tmp_path / "rows.csv")
    assert "of another number of processes: begun again" in said(capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "rows.csv.partially"}


def test_that_a_result_is_replaced_is_said(model, colours, tmp_path, capsys):
    output = tmp_path / "rows.csv"
    run(model, colours / "test", output=output)
    assert "is there already" not in said(capsys)
    run(model, colours / "train", output=output)
    assert f"{output} is there already: it is replaced" in said(capsys)
    assert len(table(output)) == 60


def test_an_error_replaces_nothing_and_says_nothing_of_it(model, tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("mine")
    with pytest.raises((OSError, ValueError)):
        run(model, tmp_path / "nowhere", output=tmp_path / "rows.csv")
    assert "is replaced" not in capsys.readouterr().err


def test_more_likely_classes_than_there_are(model, colours, tmp_path, capsys):
    run(model, colours / "test", output=tmp_path / "rows.csv", topk=99)
    assert "--topk 99: all 3 classes that there are" in capsys.readouterr().err


def test_what_is_read_is_not_replaced(model, colours, tmp_path):
    images = tmp_path / "rows.csv"
    images.write_text(f"file\n{next((colours / 'test').rglob('*.png'))}\n")
    before = images.read_text()
    with pytest.raises(ValueError, match="is what is read: give the result another name"):
        run(model, images, output=images)
    assert images.read_text() == before


def said(capsys) -> str:
    return capsys.readouterr().err


def test_two_processes_write_the_same_file(model, photos, tmp_path):
    run(model, photos, output=tmp_path / "one.csv")
    flags = [model, photos, "--output", tmp_path / "two.csv", "--workers", 1]
    assert result_of(launch("predict", *flags, ranks=2))["unreadable"] == 1
    one, two = table(tmp_path / "one.csv"), table(tmp_path / "two.csv")
    for a, b in zip(one, two, strict=True):
        assert (a["file"], a["class"], a["error"]) == (b["file"], b["class"], b["error"])
        if not a["error"]:
            assert float(a["probability"]) == pytest.approx(float(b["probability"]), abs=1e-6)
    assert [path.name for path in tmp_path.glob("two*")] == ["two.csv"]


def test_batches_are_few_and_in_order():
    """Memory holds AHEAD batches beside the one in use, however many images there are."""
    asked = []

    def read(start, stop):
        asked.append(stop)
        return _image_stream.Decoded(start, torch.zeros(stop - start, 1, 1, 1), {})

    stream = _image_stream.ImageStream(range(1000), read, (1, 1, 1))
    starts = []
    for batch in stream.batches(100, 1000, 7):
        starts.append(batch.start)
        assert max(asked) <= batch.start + (_image_stream.AHEAD + 1) * 7
    assert starts[0] == 100 and {b - a for a, b in pairwise(starts)} == {7}


# What it refuses


def test_what_is_wrong_is_one_line(model, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file, folder or archive is called nowhere"):
        run(model, photos, "nowhere", output="x.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        run(model, "empty", output="x.csv")
    with pytest.raises(ValueError, match="no images: name files"):
        recipe(Recipe, model="m")
    with pytest.raises(ValueError, match="give one of them"):
        recipe(Recipe, model="m", images=("a",), dataset="shapes")
    with pytest.raises(ValueError, match="--split test: is for --dataset"):
        recipe(Recipe, model="m", images=("a",), split="test")
    with pytest.raises(ValueError, match=r"--output x.txt: must end in .csv"):
        recipe(Recipe, model="m", images=("a",), output="x.txt")
    with pytest.raises(ValueError, match="--format parquet: cannot be written to standard output"):
        recipe(Recipe, model="m", images=("a",), output="-", format="parquet")
    with pytest.raises(ValueError, match="is a folder"):
        run(model, photos, output=tmp_path / "empty", format="csv")
    with pytest.raises(ValueError, match="is for images of 3 channels, and these have 1"):
        run(model, photos, output="x.csv", channels="1")
    content = content_of(model)
    content["kind"] = "ssl"
    stage_one = {"student": content.pop("model"), **content}
    save_content(stage_one, tmp_path / "one.pt")
    with pytest.raises(ValueError, match="multicrop embed gives its features"):
        run("one.pt", photos, output="x.csv", checkpoint_key="student")
    assert not list(tmp_path.glob("x.csv*"))


def test_without_a_temperature_it_is_said(model, photos, tmp_path, capsys):
    content = content_of(model)
    content["calibration"] = {}
    save_content(content, tmp_path / "old.pt")
    assert run(tmp_path / "old.pt", photos, output=tmp_path / "a.csv")["temperature"] is None
    assert "no temperature: the checkpoint has none" in capsys.readouterr().err
    run(model, photos, output=tmp_path / "b.csv", calibrated=False)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_another_programs_file_needs_its_architecture(photos, tmp_path, capsys):
    torch.save(network().state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match="does not say its architecture: give --arch"):
        run(tmp_path / "theirs.pth", photos, output=tmp_path / "x.csv")
    flags = {
        name: OPTIONS[name]
        for name in ("arch", "image_size", "embed_dim", "num_layers", "num_heads")
    }
    run(tmp_path / "theirs.pth", photos, output=tmp_path / "x.csv", **flags)
    assert {row["class"] for row in table(tmp_path / "x.csv")} <= {"0", "1", "2", ""}
    assert "taking those of these images" in capsys.readouterr().err


def test_python_call(model, photos, tmp_path):
    result = multicrop.predict(
        model, photos / "a", photos / "b", output=tmp_path / "rows.csv", device="cpu", workers=1
    )
    assert result["images"] == 6 and len(table(tmp_path / "rows.csv")) == 6


def test_python_call_takes_lists(model, photos, tmp_path):
    words = {"output": tmp_path / "rows.csv", "device": "cpu", "workers": 1}
    several = [photos / "b" / "3.png", str(photos / "a")]
    for images in (several, (iter(several)), [*several[:1], several[1:]]):
        multicrop.predict(model, images, **words)
        names = [row["file"] for row in table(tmp_path / "rows.csv")]
        assert names == [f"{photos}/{name}" for name in ("b/3.png", *IN_ORDER[:3])]
    with pytest.raises(ValueError, match="ndarray is no path: name files or folders; images in m"):
        multicrop.predict(model, [np.zeros((3, 16, 16))], **words)
