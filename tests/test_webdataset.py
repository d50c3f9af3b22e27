"""WebDataset shards: samples of tar files with and without labels, read where they lie; and several folders at once."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from multicrop.commands import check
from multicrop.config.check import Recipe as Check
from multicrop.datasets import _console
from multicrop.datasets._images import LoadOptions
from multicrop.registry import source

COUNTS = {"train": 12, "test": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path_factory.mktemp("cache")))
    _console.forget()  # each test is a process of its own


def picture(value: int) -> bytes:
    """A PNG file of one grey."""
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def shard(path, files: dict[str, bytes]):
    """A tar file of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(values, **endings) -> dict[str, bytes]:
    """0007.png and beside it what each ending's function says of 7."""
    files = {}
    for value in values:
        files[f"{value:04d}.png"] = picture(value)
        for ending, content in endings.items():
            files[f"{value:04d}.{ending}"] = content(value)
    return files


def number(value: int) -> bytes:
    return b"%d\n" % (2 * (value % 2) + 8)  # 8 or 10


@pytest.fixture
def shards(tmp_path):
    """Three shards of training images, one of test images."""
    for i in range(3):
        shard(
            tmp_path / "shards" / f"train-{i:03d}.tar", samples(range(4 * i, 4 * i + 4), cls=number)
        )
    shard(tmp_path / "shards" / "test-000.tar", samples(range(12, 16), cls=number))
    return tmp_path / "shards"


def load(root, split="train", columns=None, name="webdataset", **options):
    return source(name).with_columns(columns or {}).load(str(root), split, LoadOptions(**options))


def greys(images):
    return images.pixels[:][:, 0, 0, 0].tolist()


@pytest.mark.parametrize("stream", [False, True])
def test_shards_of_both_splits(shards, stream):
    train, test = (load(shards, split, stream=stream, workers=2) for split in COUNTS)
    assert greys(train) == list(range(12)) and greys(test) == list(range(12, 16))
    assert train.classes == ("8", "10") and train.labels.tolist() == [0, 1] * 6
    assert test.labels.tolist() == [0, 1] * 2 and test.mean == train.mean


@pytest.mark.parametrize("pattern", ["train-{000..002}.tar", "train-*.tar"])
def test_patterns_of_shards_hold_out_a_tenth(shards, pattern):
    train, test = (load(shards / pattern, split) for split in COUNTS)
    assert sorted(greys(train) + greys(test)) == list(range(12)) and len(test) == 2
    assert check.recognise(str(shards / pattern), None)[1] == "webdataset"
    with pytest.raises(FileNotFoundError, match=r"there is no .*train-003\.tar"):
        load(shards / "train-{000..003}.tar")


def test_folders_say_the_split_too(tmp_path):
    shard(tmp_path / "train" / "0.tar", samples(range(4), cls=number))
    shard(tmp_path / "val" / "0.tar", samples(range(4, 6), cls=number))
    assert greys(load(tmp_path, "test")) == [4, 5]


@pytest.mark.parametrize(
    ("content", "columns", "classes"),
    [
        (lambda value: {"label": value % 2, "width": 8}, {}, ("0", "1")),
        (lambda value: {"label": value, "animal": "cow"}, {"label_column": "animal"}, ("cow",)),
        (lambda value: value % 3, {}, ("0", "1", "2")),
    ],
)
def test_labels_in_json(tmp_path, content, columns, classes):
    files = samples(range(12), json=lambda value: json.dumps(content(value)).encode())
    assert load(shard(tmp_path / "a.tar", files), columns=columns).classes == classes


def test_captions_are_labels_only_where_that_is_stated(tmp_path, capsys):
    file = shard(tmp_path / "a.tar", samples(range(12), txt=lambda value: b"a cat"))
    assert load(file).labels is None and len(load(file)) == 12
    assert "no labels (.cls, or .json with one" in capsys.readouterr().err
    assert load(file, columns={"label_column": "txt"}).classes == ("a cat",)


def test_samples_of_several_images_and_of_none(tmp_path, capsys):
    files = samples(range(4), cls=number)
    files |= {"9.left.png": picture(90), "9.right.png": picture(91), "9.cls": b"8", "b.cls": b"8"}
    file = shard(tmp_path / "a.tar", files)
    right = samples(range(4), **{"right.jpg": picture, "cls": number})
    right_file = shard(tmp_path / "b.tar", right | {"9.png": picture(9)})
    columns = {"image_column": "right.jpg"}
    assert len(load(right_file, columns=columns)) + len(load(right_file, "test", columns)) == 4
    both = [*greys(load(file)), *greys(load(file, "test"))]
    assert sorted(both) == [0, 1, 2, 3, 90]
    said = capsys.readouterr().err
    assert "a.tar: left out 1 samples without an image" in said
    assert "b.tar: left out 1 samples without an image" in said
    assert "a.tar: 1 samples hold several images (left.png, right.png): the first is read" in said
    assert "b.tar: 4 samples hold" not in said  # there the image is stated


def test_damage_is_one_line(shards):
    file = shards / "train-001.tar"
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"train-001\.tar cannot be read as a tar file") as caught:
        load(shards)
    assert "\n" not in str(caught.value)
    (shards / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.tar\.gz is compressed as a whole: unpack it"):
        load(shards / "a.tar.gz")
    with pytest.raises(ValueError, match=r"x\.json: Expecting"):
        load(shard(shards.parent / "b.tar", {"x.png": picture(0), "x.json": b"{"}))


def test_check_tells_shards_from_archives_of_folders(shards, tmp_path, capsys):
    result = check.run(Check(str(shards)))
    assert result["dataset"] == "webdataset" and result["train"]["per_class"] == {"8": 6, "10": 6}
    assert (result["train"]["unreadable"], result["test"]["images"]) == (0, 4)
    assert check.recognise(str(shards / "train-000.tar"), None)[1] == "webdataset"
    folders = {f"{name}/{i}.png": picture(i) for name in ("cat", "dog") for i in range(2)}
    assert check.recognise(str(shard(tmp_path / "a.tar", folders)), None)[1] == "image_folder"
    flat = {f"{i}.png": picture(i) for i in range(2)}
    assert check.recognise(str(shard(tmp_path / "flat.tar", flat)), None)[1] == "images"
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "0.png").write_bytes(picture(0))
    shard(tmp_path / "photos" / "backup.tar", folders)
    assert check.recognise(str(tmp_path / "photos"), None)[1] == "image_folder"


# Several folders of images without labels


@pytest.fixture
def folders(tmp_path):
    """Two folders that begin with a, one of them with a folder inside, and an archive."""
    for i, name in enumerate(("a1/0.png", "a1/deep/1.png", "a2/2.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(i))
    shard(tmp_path / "old.tar", {"3.png": picture(3)})
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a2" / "2.png", "4.png")
    return tmp_path


@pytest.mark.parametrize("stream", [False, True])
def test_several_folders_and_patterns(folders, stream):
    paths = f"{folders}/a*, {folders}/old.tar"
    images = load(paths, name="images", stream=stream, workers=1)
    assert greys(images) == [0, 1, 2, 3] and images.labels is None


def test_a_compressed_archive_among_folders_leaves_nothing_behind(folders):
    paths = f"{folders}/packed.tar.gz,{folders}/a1"
    assert greys(load(paths, name="images")) == [2, 0, 1]
    cached = source("images").listing(paths, "train").root
    assert str(cached) == paths


def test_each_image_is_taken_once(folders, capsys):
    paths = f"{folders}/a1,{folders}/a1/,{folders}/a1/deep"
    assert greys(load(paths, name="images")) == [0, 1]
    assert "deep lies inside another of the folders" in capsys.readouterr().err


def test_a_changed_file_is_read_again(folders):
    paths = f"{folders}/a1,{folders}/a2"
    assert greys(load(paths, name="images")) == [0, 1, 2]
    (folders / "a2" / "2.png").write_bytes(picture(200))
    assert greys(load(paths, name="images")) == [0, 1, 200]


def test_what_several_folders_may_have_wrong(folders):
    with pytest.raises(FileNotFoundError, match=r"no folder or archive is called .*nowhere"):
        load(f"{folders}/a1,{folders}/nowhere", name="images")
    with pytest.raises(FileNotFoundError, match=r"no folder or archive is called .*b\*"):
        load(f"{folders}/b*", name="images")
    (folders / "x, y").mkdir()
    (folders / "x, y" / "0.png").write_bytes(picture(7))
    assert greys(load(folders / "x, y", name="images")) == [7]  # a name with a comma is a name


def test_check_of_several_folders(folders, capsys):
    result = check.run(Check(f"{folders}/a*", decode=False))
    assert result["dataset"] == "images" and result["train"]["images"] == 3
    assert f"--dataset images --datapath '{folders}/a*'" in result["commands"][0]


def test_streamed_several_folders_equal_the_stored_ones(folders):
    paths = f"{folders}/a1,{folders}/a2,{folders}/old.tar"
    stored, streamed = (load(paths, name="images", stream=s, workers=1) for s in (False, True))
    assert torch.equal(stored.pixels, streamed.pixels[:]) and stored.mean == streamed.mean
