"""Zip and tar files of images: the pixels of the folder they were made from, in place, cached or streamed; damage."""

import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from multicrop.datasets import _decode
from multicrop.datasets._cache import cache_folder
from multicrop.datasets._images import LoadOptions
from multicrop.registry import source

KINDS = (
    "stored.zip",
    "deflated.zip",
    "plain.tar",
    "packed.tar.gz",
    "packed.tgz",
    "packed.tar.xz",
    "packed.tar.bz2",
)
COMPRESSED = KINDS[3:]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for split, count in (("train", 4), ("val", 2)):
        for c, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([c, i, count]).integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def packed(folder, file, inside=""):
    """All files of a folder in an archive whose kind its name says, below `inside`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    members = [(path, f"{inside}{path.relative_to(folder)}") for path in files]
    if file.suffix == ".zip":
        how = zipfile.ZIP_DEFLATED if "deflated" in file.name else zipfile.ZIP_STORED
        with zipfile.ZipFile(file, "w", how) as archive:
            for path, name in members:
                archive.write(path, name)
    else:
        kind = next(
            (
                k
                for ending, k in (("gz", "gz"), ("bz2", "bz2"), ("xz", "xz"))
                if file.name.endswith(ending)
            ),
            "",
        )
        with tarfile.open(file, f"w:{kind}") as archive:
            for path, name in members:
                archive.add(path, name)
    return file


def load(root, split="train", name="image_folder", **options):
    return source(name).load(root, split, LoadOptions(**options))


@pytest.mark.parametrize("inside", ["", "photos/"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_gives_what_its_folder_gives(photos, tmp_path, kind, inside):
    file = packed(photos, tmp_path / kind, inside)
    for split in ("train", "test"):
        wanted, found = load(photos, split), load(file, split)
        assert torch.equal(found.pixels, wanted.pixels) and torch.equal(found.labels, wanted.labels)
        assert found.classes == ("cat", "dog") and found.mean == wanted.mean
    assert not list(cache_folder().rglob("*.tar"))


@pytest.mark.parametrize("kind", ["stored.zip", "deflated.zip", "plain.tar"])
def test_an_archive_is_streamed_in_place(photos, tmp_path, kind):
    found = load(packed(photos, tmp_path / kind), stream=True, workers=2)
    assert torch.equal(found.pixels[:], load(photos).pixels)


def test_a_compressed_tar_cannot_be_streamed_and_says_so(photos, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"compressed as a whole, so it cannot be streamed: pack it as \.zip or \.tar",
    ):
        load(packed(photos, tmp_path / "a.tar.gz"), stream=True)


def test_hidden_members_are_left_out(photos, tmp_path):
    (photos / "__MACOSX" / "train").mkdir(parents=True)
    (photos / "__MACOSX" / "train" / "._0.png").write_bytes(b"no image")
    (photos / "train" / "cat" / "._0.png").write_bytes(b"no image")
    assert len(load(packed(photos, tmp_path / "a.zip"))) == 8


def test_images_without_labels(photos, tmp_path):
    found = load(packed(photos / "train" / "cat", tmp_path / "cats.zip"), name="images")
    assert len(found) == 4 and found.labels is None


def test_a_changed_archive_is_read_again(photos, tmp_path):
    file = packed(photos, tmp_path / "a.zip")
    assert len(load(file)) == 8
    shutil.copy(photos / "train" / "cat" / "0.png", photos / "train" / "dog" / "9.png")
    assert len(load(packed(photos, file))) == 9


def test_second_read_decodes_nothing(photos, tmp_path, monkeypatch):
    file = packed(photos, tmp_path / "a.tgz")
    first = load(file).pixels
    monkeypatch.setattr(_decode, "decode", None)
    assert torch.equal(load(file).pixels, first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.5, 0.0], ids=["cut", "empty"])
def test_a_cut_archive_is_one_line(photos, tmp_path, kind, part):
    file = packed(photos, tmp_path / kind)
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match="cannot be read as an archive, it is damaged") as caught:
        load(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["stored.zip", "deflated.zip"])
def test_a_damaged_member_is_an_unreadable_image(photos, tmp_path, capsys, kind, stream):
    file = packed(photos, tmp_path / kind)
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo("train/cat/1.png")
    content = bytearray(file.read_bytes())
    content[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 0x55
    file.write_bytes(content)
    found = load(file, stream=stream, workers=2).pixels[:]
    assert len(found) == (8 if stream else 7)
    assert "cat/1.png (" in capsys.readouterr().err


@pytest.mark.parametrize("stream", [False, True])
def test_a_member_that_unpacks_to_too_much_is_left_out_until_it_is_allowed(
    photos, tmp_path, capsys, monkeypatch, stream
):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(photos / "train" / "cat" / "large.png")
    file = packed(photos, tmp_path / "deflated.zip")
    monkeypatch.setenv("MULTICROP_MAX_IMAGE_BYTES", "2000")
    found = load(file, stream=stream)
    if stream:  # it is met when it is read
        found.pixels[torch.arange(len(found))]
    assert "MULTICROP_MAX_IMAGE_BYTES=" in capsys.readouterr().err
    monkeypatch.setenv("MULTICROP_MAX_IMAGE_BYTES", "100000")
    assert len(load(file)) == 9


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "a.zip").write_text("hello")
    (tmp_path / "a.rar").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.zip cannot be read as an archive"):
        load(tmp_path / "a.zip")
    with pytest.raises(
        ValueError, match=r"a\.rar is a file; a folder of images is expected, or a \.zip or \.tar"
    ):
        load(tmp_path / "a.rar")


def test_an_encrypted_or_rarely_compressed_zip_says_so(photos, tmp_path):
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.write(photos / "train" / "cat" / "0.png", "train/cat/0.png")
    with pytest.raises(ValueError, match="pack it again by `zip -0 -r`"):
        load(file)
    content = bytearray(packed(photos, file).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of the first entry in the directory
    file.write_bytes(content)
    with pytest.raises(ValueError, match="it is encrypted"):
        load(file)


CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_cifar(root, names):
    """CIFAR-10 as cifar2png writes it: four-digit counters from 1 per class."""
    for split in ("train", "test"):
        for c, name in enumerate(CIFAR):
            (root / split / name).mkdir(parents=True)
            for i in range(1, 3):
                image = np.full((32, 32, 3), 10 * c + i, np.uint8)
                Image.fromarray(image).save(root / split / name / names.format(i))


@pytest.mark.parametrize("names", ["{:04d}.png", "data_batch_1_index_{:04d}.png"])
@pytest.mark.parametrize("archive", [False, True])
def test_cifar10_png_folders(tmp_path, names, archive):
    root = tmp_path / "cifar10"
    write_cifar(root, names)
    found = load(packed(root, tmp_path / "cifar10.zip") if archive else root, "train", "cifar10")
    assert found.classes == CIFAR and found.labels.tolist() == [
        c for c in range(10) for _ in range(2)
    ]
    assert found.pixels[:, 0, 0, 0].tolist() == [10 * c + i for c in range(10) for i in (1, 2)]


def test_cifar100_superclass_folders_are_labelled_by_their_leaves(tmp_path):
    leaves = {"people": ("woman", "baby"), "trees": ("oak", "maple"), "fish": ("ray",)}
    order = sorted(leaf for inside in leaves.values() for leaf in inside)
    for split in ("train", "test"):
        for above, inside in leaves.items():
            for leaf in inside:
                (tmp_path / split / above / leaf).mkdir(parents=True)
                for i in (1, 2):
                    image = np.full((32, 32, 3), 10 * order.index(leaf) + i, np.uint8)
                    Image.fromarray(image).save(tmp_path / split / above / leaf / f"{i:04d}.png")
    for split in ("train", "test"):
        found = load(tmp_path, split, "cifar100")
        assert found.classes == tuple(order)
        assert (found.pixels[:, 0, 0, 0] // 10).tolist() == found.labels.tolist()


def test_binary_files_in_an_archive_are_to_be_unpacked(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in ("data_batch_1", "test_batch"):
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(b"")
    file = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    with pytest.raises(ValueError, match="unpack it and give the folder"):
        load(file, "train", "cifar10")
