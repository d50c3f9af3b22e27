"""Labels in a table: which columns, where the images are, which split they are in, and what a table can get wrong."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from multicrop.commands import check
from multicrop.config.check import Recipe as Check
from multicrop.datasets import _console
from multicrop.datasets._images import LoadOptions
from multicrop.registry import source


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path_factory.mktemp("cache")))
    _console.forget()  # each test is a process of its own


def write(path, value=0):
    """An image whose one grey says which it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path):
    """Forty images 0.png, 1.png, ... in images/."""
    root = tmp_path / "photos"
    for i in range(40):
        write(root / "images" / f"{i}.png", i)
    return root


def load(root, split="train", columns=None, **options):
    return source("table").with_columns(columns or {}).load(root, split, LoadOptions(**options))


def listing(root, split="train", **columns):
    return source("table").with_columns(columns).listing(root, split)


def table(path, header, rows, separator=","):
    lines = [separator.join(header), *(separator.join(map(str, row)) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def rows_of(count=40, classes=("cat", "dog"), ending=".png", folder="images/"):
    return [(f"{folder}{i}{ending}", classes[i % len(classes)]) for i in range(count)]


def greys(images):
    return images.pixels[:][:, 0, 0, 0].tolist()


# What a table may look like


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("given", ["labels.csv", "."])
def test_a_csv_holds_out_a_tenth_of_each_class_as_class_folders_do(photos, given, stream, capsys):
    table(photos / "labels.csv", ("file", "label"), rows_of())
    train, test = load(photos / given, stream=stream), load(photos / given, "test", stream=stream)
    assert train.classes == test.classes == ("cat", "dog") and train.mean == test.mean
    assert train.labels.bincount().tolist() == [18, 18]
    assert test.labels.bincount().tolist() == [2, 2]
    assert sorted(greys(train) + greys(test)) == list(range(40))
    for images in (train, test):
        assert [grey % 2 for grey in greys(images)] == images.labels.tolist()
    said = capsys.readouterr().err
    assert said.count("images from column 'file', labels from 'label'") == 1
    assert said.count("4 of 40 images are held out") == 1


def test_the_tenth_is_that_of_the_same_files_in_class_folders(photos):
    for i in range(40):
        write(photos / "sorted" / ("cat", "dog")[i % 2] / f"{i}.png", i)
    shutil.rmtree(photos / "images")
    rows = [(f"{('cat', 'dog')[i % 2]}/{i}.png", ("cat", "dog")[i % 2]) for i in range(40)]
    table(photos / "sorted" / "labels.csv", ("file", "label"), rows)
    folders = source("image_folder").listing(photos / "sorted", "test")
    found = listing(photos / "sorted" / "labels.csv", "test")
    assert sorted(found.names) == sorted(folders.names) and len(found.names) == 4


@pytest.mark.parametrize(
    ("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.csv", "\t")]
)
def test_separators(photos, name, separator):
    table(photos / name, ("file", "label"), rows_of(), separator)
    assert len(load(photos / name)) == 36


def test_json_lines_and_quotes_and_a_byte_order_mark(photos):
    rows = [
        {"file_name": name, "label": 3.0 if label == "cat" else 12} for name, label in rows_of()
    ]
    (photos / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load(photos / "a.jsonl").classes == ("3", "12")
    (photos / "b.csv").write_text(
        '\ufeff"file","label"\n"images/0.png","a, b"\n"images/1.png","a, b"\n'
    )
    assert load(photos / "b.csv").classes == ("a, b",)


def test_parquet_of_names(photos):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    names, labels = zip(*rows_of(), strict=True)
    cells = {"path": list(names), "category": list(labels)}
    parquet.write_table(pyarrow.table(cells), photos / "a.parquet")
    assert load(photos / "a.parquet").labels.bincount().tolist() == [18, 18]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("filepath", "label"),
        ("File Name", "Class"),
        ("image_id", "target"),
        ("Path", "ClassId"),
        ("id", "breed"),
    ],
)
def test_columns_are_found_by_their_names(photos, image, label):
    table(photos / "a.csv", (label, image), [(label, name) for name, label in rows_of()])
    assert load(photos / "a.csv").classes == ("cat", "dog")


def test_columns_can_be_stated(photos):
    rows = [(i, name, "x", label) for i, (name, label) in enumerate(rows_of())]
    table(photos / "a.csv", ("label", "photo", "file", "animal"), rows)
    columns = {"image_column": "photo", "label_column": "animal"}
    assert load(photos / "a.csv", columns=columns).classes == ("cat", "dog")
    with pytest.raises(
        ValueError, match=r"--label_column dx: .*has no such column, it has label, photo"
    ):
        listing(photos / "a.csv", label_column="dx")
    with pytest.raises(ValueError, match="--label_column dx: --dataset shapes has no columns"):
        source("shapes").with_columns({"label_column": "dx"})


def test_numbers_are_sorted_as_numbers_and_names_by_the_alphabet(photos):
    table(photos / "a.csv", ("file", "label"), rows_of(classes=("10", "9", "-1")))
    assert load(photos / "a.csv").classes == ("-1", "9", "10")
    table(photos / "b.csv", ("file", "label"), rows_of(classes=("10", "9", "x")))
    assert load(photos / "b.csv").classes == ("10", "9", "x")
    table(photos / "c.csv", ("file", "label"), rows_of(classes=("2.0", "1.0")))
    assert load(photos / "c.csv").classes == ("1", "2")


# Where images are


@pytest.mark.parametrize(
    "folder", ["", "./", "images/", "C:\\data\\images\\", "/somebody/elses/images/"]
)
@pytest.mark.parametrize("ending", ["", ".png"])
def test_images_are_found_by_their_paths_or_parts_of_them(photos, folder, ending):
    table(photos / "a.csv", ("id", "label"), rows_of(ending=ending, folder=folder))
    images = load(photos / "a.csv")
    assert len(images) == 36 and [grey % 2 for grey in greys(images)] == images.labels.tolist()


def test_kaggle_train_csv_beside_folders_of_the_same_names(tmp_path, capsys):
    for i in range(20):
        write(tmp_path / "train" / f"{i}.jpg")
        write(tmp_path / "test" / f"{i}.jpg")
    table(tmp_path / "train.csv", ("id", "breed"), rows_of(20, ending="", folder=""))
    table(tmp_path / "test.csv", ("id",), [(i,) for i in range(20)])
    table(tmp_path / "sample_submission.csv", ("id", "breed"), [(0, "cat")])
    assert set(listing(tmp_path).names + listing(tmp_path, "test").names) == {
        f"train/{i}.jpg" for i in range(20)
    }
    assert "20 test images have no labels, and are not used" in capsys.readouterr().err
    assert check.recognise(str(tmp_path), None)[1] == "table"


def test_a_name_that_may_be_two_files(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder / "0.png")
    table(tmp_path / "labels.csv", ("file", "label"), [("0", "cat")])
    with pytest.raises(ValueError, match=r"labels\.csv: 0 may be a/0\.png or b/0\.png"):
        listing(tmp_path)


def test_a_zip_of_a_table_and_its_images(photos, tmp_path):
    table(photos / "labels.csv", ("file", "label"), rows_of(ending=""))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in photos.rglob("*"):
            archive.write(path, path.relative_to(photos))
    wanted, found = load(photos), load(tmp_path / "a.zip")
    assert torch.equal(wanted.pixels, found.pixels) and torch.equal(wanted.labels, found.labels)


# Splits


@pytest.mark.parametrize("given", [".", "train.csv", "test.csv"])
def test_a_table_for_each_split(photos, given):
    rows = rows_of()
    table(photos / "train.csv", ("filepath", "label"), rows[:30])
    table(photos / "test.csv", ("filepath", "label"), rows[30:])
    assert greys(load(photos / given)) == list(range(30))
    assert greys(load(photos / given, "test")) == list(range(30, 40))


@pytest.mark.parametrize("words", [("train", "test"), ("Training", "VALIDATION"), ("train", "dev")])
def test_a_column_of_splits(photos, words):
    rows = [(*row, words[i >= 30]) for i, row in enumerate(rows_of())]
    table(photos / "a.csv", ("file", "label", "split"), rows)
    assert greys(load(photos / "a.csv", "test")) == list(range(30, 40))


def test_validation_images_beside_test_images_are_a_split_of_their_own(photos):
    words = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    rows = [(*row, word) for row, word in zip(rows_of(), words, strict=True)]
    table(photos / "a.csv", ("file", "label", "set"), rows)
    assert greys(load(photos / "a.csv", "test")) == list(range(30, 40))
    assert source("table").has_validation(photos / "a.csv")
    assert greys(load(photos / "a.csv", "val")) == list(range(20, 30))


def test_validation_images_alone_are_the_test_split(photos):
    rows = [(*row, "val" if i >= 30 else "train") for i, row in enumerate(rows_of())]
    table(photos / "a.csv", ("file", "label", "set"), rows)
    assert greys(load(photos / "a.csv", "test")) == list(range(30, 40))
    assert not source("table").has_validation(photos / "a.csv")
    with pytest.raises(ValueError, match="no validation images beside test images"):
        load(photos / "a.csv", "val")


def test_an_unknown_split(photos):
    rows = [(*row, "train" if i else "holdout") for i, row in enumerate(rows_of())]
    table(photos / "a.csv", ("file", "label", "split"), rows)
    with pytest.raises(
        ValueError,
        match=r"puts images/0\.png into a split 'holdout', which is none of train, test, val",
    ):
        listing(photos / "a.csv")


@pytest.mark.parametrize("place", [".", "split"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_hugging_faces_metadata(tmp_path, place, ending):
    for split, count in (("train", 6), ("test", 2)):
        for i in range(count):
            write(tmp_path / split / f"{i}.png", i)
    for split in ("train", "test") if place == "split" else (".",):
        files = sorted((tmp_path / split).rglob("*.png"))
        rows = [(str(f.relative_to(tmp_path / split)), int(f.stem) % 2) for f in files]
        if ending == "csv":
            table(tmp_path / split / "metadata.csv", ("file_name", "label"), rows)
        else:
            lines = [json.dumps({"file_name": name, "label": label}) for name, label in rows]
            (tmp_path / split / "metadata.jsonl").write_text("\n".join(lines))
    train, test = load(tmp_path), load(tmp_path, "test")
    assert greys(train) == list(range(6)) and train.labels.tolist() == [0, 1] * 3
    assert greys(test) == [0, 1] and test.labels.tolist() == [0, 1]


# What can be wrong


def test_files_that_are_missing(photos, capsys):
    table(photos / "a.csv", ("file", "label"), [*rows_of(), ("images/99.png", "cat")])
    assert len(load(photos / "a.csv")) == 36
    load(photos / "a.csv", "test")
    said = capsys.readouterr().err
    assert said.count("left out 1 of 41 rows whose files are not below") == 1 and "99.png" in said
    shutil.rmtree(photos / "images")
    with pytest.raises(
        FileNotFoundError, match=r"names 41 images, and none of them is below .*images/0\.png"
    ):
        listing(photos / "a.csv")


def test_labels_that_training_lacks(photos):
    rows = rows_of()
    table(photos / "train.csv", ("file", "label"), rows[:30])
    table(photos / "test.csv", ("file", "label"), [*rows[30:], ("images/0.png", "cow")])
    with pytest.raises(
        ValueError, match=r"test\.csv: 'cow', of 1 test images, is a class that the training"
    ):
        listing(photos, "test")


def test_of_two_rows_of_an_image_the_one_with_a_label_counts(photos, capsys):
    first, *others = rows_of()
    table(photos / "a.csv", ("file", "label"), [(first[0], ""), first, *others, (first[0], "")])
    assert len(load(photos / "a.csv")) == 36
    assert "left out 2 of 42 rows that name an image again" in capsys.readouterr().err


def test_repeated_rows(photos, capsys):
    table(photos / "a.csv", ("file", "label"), [*rows_of(), *rows_of(3)])
    assert len(load(photos / "a.csv")) == 36
    assert "left out 3 of 43 rows that name an image again" in capsys.readouterr().err
    table(photos / "a.csv", ("file", "label"), [*rows_of(), ("images/0.png", "dog")])
    with pytest.raises(ValueError, match=r"gives images/0\.png two labels, 'cat' and 'dog'"):
        listing(photos / "a.csv")


def test_empty_labels(photos, capsys):
    table(photos / "a.csv", ("file", "label"), [*rows_of(39), ("images/39.png", "")])
    assert len(load(photos / "a.csv")) + len(load(photos / "a.csv", "test")) == 39
    assert "left out 1 of 40 rows without a label, e.g. images/39.png" in capsys.readouterr().err


def test_test_images_that_are_training_images(photos, capsys):
    table(photos / "train.csv", ("file", "label"), rows_of())
    table(photos / "test.csv", ("file", "label"), rows_of(4))
    listing(photos)
    assert "warning: 4 of 4 test images" in capsys.readouterr().err


def test_without_labels(photos, capsys):
    table(photos / "a.csv", ("file", "width", "height"), [(name, 8, 8) for name, _ in rows_of()])
    images = load(photos / "a.csv")
    assert len(images) == 40 and images.labels is None
    assert "no labels (--label_column names one of file, width, height)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no labels, and so there is no test split"):
        load(photos / "a.csv", "test")


@pytest.mark.parametrize("yes, no", [("1", "0"), ("1.0", "0.0"), ("True", "False")])
def test_one_hot_labels_are_named_where_labels_are_missed(photos, yes, no):
    rows = [
        (name, *((yes, no) if i % 2 else (no, yes)), i) for i, (name, _) in enumerate(rows_of())
    ]
    table(photos / "a.csv", ("file", "cat", "dog", "width"), rows)
    assert load(photos / "a.csv").labels is None  # pretraining needs none
    words = (
        r"2 of its columns hold 0 and 1 \(cat, dog\), a column for each class \(one-hot\): write"
    )
    with pytest.raises(ValueError, match=words):
        load(photos / "a.csv", "test")


@pytest.mark.parametrize(
    "first, second, said",
    [
        ("cat|dog", "cat", True),
        ("cat; dog", "cow", True),
        ("cat,dog", "cat", True),
        ("['cat', 'dog']", "'cat'", True),
        ("Smith, John", "Doe, Jane", False),
        ("cat", "dog", False),
        ("a|", "|", False),
    ],
)
def test_several_labels_in_a_cell_are_warned_of_once(photos, capsys, first, second, said):
    rows = [(name, f'"{first if i % 2 else second}"') for i, (name, _) in enumerate(rows_of())]
    table(photos / "a.csv", ("file", "label"), rows)
    load(photos / "a.csv"), load(photos / "a.csv", "test")
    lines = [line for line in capsys.readouterr().err.splitlines() if "several at once" in line]
    assert len(lines) == said
    if said:
        assert repr(first) in lines[0] and "20 of 40 rows" in lines[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("images/0.png,cat\nimages/1.png,dog\n", "none of its columns is known to name images"),
        ("file,label\n", "no header line with names of columns, or no rows"),
        ("", "no header line"),
        ("file,label\nimages/0.png,a,b\n", "row 2 has 3 cells, and the header 2"),
        (
            "file,label\nimages/0.png,0.25\nimages/1.png,0.5\n",
            "labels like 0.25, which are fractions",
        ),
    ],
)
def test_a_table_that_is_none(photos, content, words):
    (photos / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        listing(photos / "a.csv")
    assert "a.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_other_damage(photos):
    (photos / "a.jsonl").write_text('{"file": "images/0.png", "label": [1, 2]}')
    with pytest.raises(ValueError, match=r"a\.jsonl, column 'label': \[1, 2\] is not one label"):
        listing(photos / "a.jsonl")
    (photos / "a.jsonl").write_text("hello")
    with pytest.raises(ValueError, match="line 1: 'hello' is no JSON object"):
        listing(photos / "a.jsonl")
    (photos / "a.csv").write_bytes("file,label\nimages/0.png,é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.csv is not in UTF-8"):
        listing(photos / "a.csv")
    with pytest.raises(ValueError, match=r"holds 2 tables, a\.csv and a\.jsonl: give the path"):
        listing(photos)


# check


def test_check_recognises_tables_and_keeps_the_columns(photos, capsys):
    rows = [(name, 8, label) for name, label in rows_of()]
    path = str(table(photos / "a.csv", ("file", "width", "dx"), rows))
    result = check.run(Check(path, label_column="dx", decode=False))
    assert result["dataset"] == "table" and result["train"]["per_class"] == {"cat": 18, "dog": 18}
    assert f"--dataset table --datapath {path} --label_column dx" in result["commands"][1]
    assert check.recognise(str(photos), None, {"label_column": "dx"})[1] == "table"


def test_a_list_beside_class_folders_does_not_hide_their_classes(photos):
    write(photos / "more" / "0.png")
    table(
        photos / "sizes.csv", ("file", "width", "height"), [(name, 8, 8) for name, _ in rows_of()]
    )
    assert check.recognise(str(photos), None)[1] == "image_folder"


# Tables that are there and cannot be taken


@pytest.fixture
def loose(tmp_path):
    """Images in one folder, which is no class, and a table of any name."""
    for i in range(6):
        write(tmp_path / "images" / f"{i}.png", i)
    lines = ["file,label", *(f"images/{i}.png,{'ab'[i % 2]}" for i in range(6)), ""]
    return tmp_path, "\n".join(lines)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a", "b"), r"holds 2 tables, a\.csv and b\.csv: give the path of one of them"),
        (("train_a", "train_b"), r"holds train_a\.csv and train_b\.csv: give the path of one"),
    ],
)
def test_check_says_that_it_is_open_which_table_to_take(loose, names, words):
    folder, content = loose
    for name in names:
        (folder / f"{name}.csv").write_text(content)
    with pytest.raises(ValueError, match=words):
        check.run(Check(str(folder), workers=1))
    one = check.run(Check(str(folder / f"{names[1]}.csv"), workers=1))
    assert one["dataset"] == "table" and one["train"]["classes"] == 2


def test_tables_that_are_none_do_not_hide_classes(loose, capsys):
    folder, content = loose
    for name in ("cat", "dog"):
        for i in range(3):
            write(folder / name / f"{i}.png", i)
    for name in ("a", "b"):
        (folder / f"{name}.csv").write_text(content)
    assert check.recognise(str(folder), None)[1] == "image_folder"
    assert "not read as tables: " in capsys.readouterr().err
    for name in ("a", "b"):
        (folder / f"{name}.csv").write_text("epoch,loss\n1,2\n")
    assert check.recognise(str(folder), None)[1] == "image_folder"
    assert "not read as" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("file,label\nimages/0.png,a,b\n", "row 2 has 3 cells, and the header 2"),
        ("epoch,loss\n1,2\n", "none of its columns is known to name images"),
    ],
)
def test_check_says_why_the_only_table_is_not_read(loose, capsys, content, words):
    folder, _ = loose
    (folder / "labels.csv").write_text(content)
    check.recognise(str(folder), None)
    assert f"not read as a table: {folder}/labels.csv" in (said := capsys.readouterr().err)
    assert words in said
