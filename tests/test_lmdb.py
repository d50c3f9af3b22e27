"""LMDB files: those of the DHVT code (recorded with pyarrow 5 and lmdb 1.2), ours, damage, and no pickles."""

import os
import pickle
import random
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from PIL import Image

from multicrop.datasets import _bytes, _pack
from multicrop.datasets._arrow import image_and_label
from multicrop.datasets._images import LoadOptions
from multicrop.datasets._lmdb import Database
from multicrop.registry import source

lmdb = pytest.importorskip("lmdb")
PUBLISHED = GOLDEN / "dhvt_lmdb"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path / "cache"))


def load(root, split="train", **options):
    return source("lmdb").load(root, split, LoadOptions(**options))


def recorded(seed, side):
    """The pixels that were written: Python's own random bytes."""
    numbers = random.Random(seed)
    return np.array([numbers.randrange(256) for _ in range(side * side * 3)], np.uint8).reshape(
        side, side, 3
    )


@pytest.mark.parametrize("stream", [False, True])
def test_the_published_format(stream):
    train = load(PUBLISHED, source_size=8, stream=stream, workers=2)
    test = load(PUBLISHED, "test", source_size=8, stream=stream, workers=1)
    assert train.labels.tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
        0,
        1,
        2,
        1,
        0,
        2,
    ] and test.labels.tolist() == [2, 1, 0]
    assert train.classes == test.classes == ("0", "1", "2")
    for i in (0, 1, 2, 4, 11):
        assert np.array_equal(train.pixels[i].permute(1, 2, 0).numpy(), recorded(i, 8))
    whole = Image.fromarray(recorded(3, 32)).resize(
        (8, 8), Image.Resampling.BICUBIC
    )  # its value has pages of its own
    assert np.array_equal(train.pixels[3].permute(1, 2, 0).numpy(), np.asarray(whole))
    assert np.array_equal(test.pixels[2].permute(1, 2, 0).numpy(), recorded(102, 8))


def test_a_file_or_folders_of_databases_may_be_given(tmp_path):
    assert len(load(PUBLISHED / "train.lmdb", "test", source_size=8)) == 3
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        shutil.copy(PUBLISHED / f"{split}.lmdb", tmp_path / split / "data.mdb")
    assert (
        len(load(tmp_path, source_size=8)) == 12 and len(load(tmp_path, "test", source_size=8)) == 3
    )


def test_as_a_folder_of_images_it_is_pointed_to_this_entry():
    with pytest.raises(ValueError, match=r"holds \.lmdb files: they are --dataset lmdb"):
        source("image_folder").load(PUBLISHED, "train")


def test_class_folders_beside_a_packed_file_are_read(photos):
    shutil.copy(PUBLISHED / "train.lmdb", photos / "train")
    assert len(source("image_folder").load(photos, "train")) == 8


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no train\.lmdb in"):
        load(tmp_path)
    shutil.copy(PUBLISHED / "train.lmdb", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no test\.lmdb or val\.lmdb"):
        load(tmp_path, "test", source_size=8)


@pytest.mark.parametrize("length", [0, 10, 100, 4096, 5000, 20000, 40000, 60000])
def test_a_cut_database_is_one_line(tmp_path, length):
    content = (PUBLISHED / "train.lmdb").read_bytes()
    (tmp_path / "train.lmdb").write_bytes(content[:length])
    with pytest.raises(ValueError, match=r"train\.lmdb is (damaged|no database)") as caught:
        load(tmp_path, source_size=8)
    assert "\n" not in str(caught.value)


def test_any_damage_is_an_error_or_an_unreadable_image(tmp_path):
    content, numbers = (PUBLISHED / "train.lmdb").read_bytes(), random.Random(0)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(numbers.choice((1, 40))):
            damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
        (tmp_path / "train.lmdb").write_bytes(damaged)
        try:
            outcomes.add(len(source("lmdb").listing(tmp_path, "train").names))
        except ValueError as error:
            assert "\n" not in str(error)
            outcomes.add("error")
    assert outcomes == {12, "error"}


def test_pages_in_a_circle(tmp_path):
    """Each child of a branch page is made to be that page again."""
    content = bytearray((PUBLISHED / "train.lmdb").read_bytes())
    for page in (
        at for at in range(8192, len(content), 4096) if content[at + 10 : at + 12] == b"\1\0"
    ):
        for i in range((int.from_bytes(content[page + 12 : page + 14], "little") - 16) // 2):
            node = page + int.from_bytes(content[page + 16 + 2 * i : page + 18 + 2 * i], "little")
            content[node : node + 6] = (page // 4096).to_bytes(6, "little")
    (tmp_path / "train.lmdb").write_bytes(content)
    with pytest.raises(ValueError, match="circle"):
        load(tmp_path)


def test_any_tree_of_pages_is_read(tmp_path):
    """Three levels, values inside the pages and outside, deleted and replaced ones: as LMDB itself lists them."""
    numbers = np.random.default_rng(0)
    with lmdb.open(str(tmp_path / "a.lmdb"), subdir=False, map_size=1 << 26) as database:
        for _ in range(3):
            with database.begin(write=True) as transaction:
                for key in numbers.integers(0, 20000, 6000):
                    transaction.put(
                        b"%d" % key,
                        numbers.bytes(numbers.choice((0, 3, 90, 5000), p=(0.1, 0.4, 0.45, 0.05))),
                    )
                for key in numbers.integers(0, 20000, 2000):
                    transaction.delete(b"%d" % key)
        with database.begin() as transaction:
            wanted = dict(transaction.cursor())
    found = Database(tmp_path / "a.lmdb")
    assert {key: found.read(key) for key in found.spans} == wanted and len(wanted) > 5000
    assert found.read(b"no such key") is None


def test_a_pickle_is_never_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "evil"), "w")

    with (
        lmdb.open(str(tmp_path / "train.lmdb"), subdir=False, map_size=1 << 22) as database,
        database.begin(write=True) as transaction,
    ):
        transaction.put(b"0", pickle.dumps((Evil(), 0)))
    with pytest.raises(
        ValueError,
        match=r"not of pyarrow\): build it again from the image files: multicrop pack",
    ):
        load(tmp_path)
    assert not (tmp_path / "evil").exists()


def test_a_missing_image_is_named(tmp_path):
    with (
        lmdb.open(str(tmp_path / "train.lmdb"), subdir=False, map_size=1 << 22) as database,
        database.begin(write=True) as transaction,
    ):
        published = Database(PUBLISHED / "train.lmdb")
        for key in (b"0", b"1", b"3"):
            transaction.put(key, published.read(key))
    with pytest.raises(ValueError, match="image 2 is missing"):
        load(tmp_path)


@pytest.mark.parametrize("cut", [1, 12, 20, 100, 500, 900])
def test_a_cut_record_is_an_error(cut):
    database = Database(PUBLISHED / "train.lmdb")
    offset, length = database.spans[b"0"]
    assert image_and_label(database.bytes, offset, length)[2] == 0
    with pytest.raises(ValueError, match="a record"):
        image_and_label(database.bytes[offset : offset + cut], 0, cut)
    with pytest.raises(ValueError, match="not a pair"):
        image_and_label(database.bytes, *database.spans[b"__keys__"])


# Our own format


@pytest.fixture
def photos(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        for c, name in enumerate(("cat", "dog")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([c, i, count]).integers(
                    0, 256, (40, 30 + i, 3), np.uint8
                )
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{i}.png")
    return tmp_path / "photos"


def pack(photos, out):
    listings = {split: source("image_folder").listing(photos, split) for split in ("train", "test")}
    return _pack.pack(listings, out)


def test_packed_images_are_those_of_the_folder(photos, tmp_path):
    sizes = pack(photos, tmp_path / "packed")
    assert sizes["train"] == (tmp_path / "packed" / "train.lmdb").stat().st_size
    for split in ("train", "test"):
        wanted = source("image_folder").load(photos, split)
        for options in ({}, {"stream": True, "workers": 2}):
            found = load(tmp_path / "packed", split, **options)
            assert torch.equal(found.pixels[:], wanted.pixels) and torch.equal(
                found.labels, wanted.labels
            )
            assert (found.classes, found.mean, found.std) == (
                ("cat", "dog"),
                wanted.mean,
                wanted.std,
            )
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == [
        "test.lmdb",
        "train.lmdb",
    ]


def test_unlabelled_images_are_packed_too(photos, tmp_path):
    listing = source("images").listing(photos, "train")
    _pack.pack({"train": listing}, tmp_path / "packed")
    found = load(tmp_path / "packed")
    assert len(found) == 12 and found.labels is None and found.classes == ()


def test_an_interrupted_command_goes_on_and_other_images_are_never_overwritten(
    photos, tmp_path, capsys
):
    sizes = pack(photos, tmp_path)
    (tmp_path / "test.lmdb").unlink()  # as if it had been killed between the splits
    assert pack(photos, tmp_path) == sizes
    assert "train.lmdb holds these images already: kept" in capsys.readouterr().err
    Image.new("RGB", (9, 9)).save(photos / "train" / "cat" / "0.png")
    with pytest.raises(FileExistsError, match=r"train\.lmdb is there already"):
        pack(photos, tmp_path)


def test_what_a_killed_process_left_is_removed(photos, tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    host = socket.gethostname()
    for process in (dead.stdout.strip(), str(os.getppid())):
        (tmp_path / f".train.lmdb.{host}.{process}").touch()
    pack(photos, tmp_path)
    assert [path.name for path in tmp_path.glob(".train*")] == [
        f".train.lmdb.{host}.{os.getppid()}"
    ]


def test_no_flipped_bit_of_a_packed_file_is_silent(photos, tmp_path, record_property):
    """Each 97th byte: the file is refused, the image left out, or every pixel and label as packed."""
    pack(photos, tmp_path)
    file = tmp_path / "train.lmdb"
    content, whole = file.read_bytes(), packed_content(tmp_path)
    silent = []
    places = range(0, len(content), 97)
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            found = packed_content(tmp_path)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        if found != whole:
            silent.append(place)
    record_property("tries", len(places))
    record_property("silent", len(silent))
    assert silent == []


def packed_content(folder) -> tuple:
    """All that the training file holds; ValueError where a byte is not as it was written."""
    listing = source("lmdb").listing(folder, "train")
    with listing.root.places(listing.names, None) as places:
        try:
            images = [_bytes.content(place) for place in places]
        except OSError as error:
            raise ValueError(str(error)) from None
    return images, listing.labels, listing.classes


def test_packing_needs_room_and_leaves_nothing_without_it(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(_pack.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"needs 0\.00 GB and 0\.00 GB are free: make room"):
        pack(photos, tmp_path / "packed")
    assert not any((tmp_path / "packed").iterdir())


def test_packing_without_the_package_says_so(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ValueError, match="pip install lmdb"):
        pack(photos, tmp_path)


@pytest.mark.parametrize("key", [b"about", b"labels", b"00000003"])
def test_our_format_damaged(photos, tmp_path, key):
    pack(photos, tmp_path)
    with (
        lmdb.open(str(tmp_path / "train.lmdb"), subdir=False, map_size=1 << 24) as database,
        database.begin(write=True) as transaction,
    ):
        transaction.delete(key)
        if key != b"00000003":
            transaction.put(key, b"\x01\x02\x03\x04")
    with pytest.raises(ValueError, match=r"train\.lmdb is damaged"):
        load(tmp_path)
