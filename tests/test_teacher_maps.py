"""Stored features: what a folder holds, that writing goes on, and what is refused."""

import json
import os

import numpy as np
import pytest
import torch

from multicrop import registry
from multicrop.augment.shift import Shifts
from multicrop.datasets._images import ImageSet
from multicrop.engine.fingerprint import dataset_fingerprint, teacher_fingerprint
from multicrop.supervised.augmentation import TrainDraws
from multicrop.supervised.map_transform import stored_maps_of_batch, transform_maps
from multicrop.supervised.pairs import pair_maps
from multicrop.supervised.teacher import Teacher
from multicrop.weights import teacher_maps
from multicrop.weights.teacher_maps import HEADER, MapShape, StoredMaps, Writer, format_bytes

MAPS = {"s1": MapShape(4, 1, 8, 8), "s2": MapShape(6, 2, 4, 4)}
IMAGES = 10


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pixels(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (IMAGES, 3, 8, 8), generator=generator, dtype=torch.uint8)


def images_of(dataset: str, pixels: torch.Tensor, labels: torch.Tensor) -> dict:
    return dataset_fingerprint(dataset, ImageSet(pixels, labels, (), (), ()))


LABELS = torch.arange(IMAGES) % 3
PRINT = images_of("shapes", pixels(), LABELS)
VALUES = [random(1, IMAGES, 4, 8, 8), random(2, IMAGES, 6, 4, 4)]


def write(
    folder, stop: int = IMAGES, dtype: str = "float32", fingerprint=PRINT, step: int = 3
) -> Writer:
    """Batches of three until at least `stop` images are stored."""
    writer = Writer(folder, fingerprint, MAPS, dtype)
    with writer:
        while writer.done < stop:
            rows = slice(writer.done, writer.done + step)
            writer.append([values[rows] for values in VALUES])
    return writer


def test_stored_maps_come_back(tmp_path):
    writer = write(tmp_path)
    assert writer.bytes == IMAGES * (4 * 64 + 6 * 16) * 4
    features = StoredMaps.open(tmp_path, PRINT)
    for name, values in zip(MAPS, VALUES, strict=True):
        assert torch.equal(features.arrays[name], values)
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), values.numpy())
    assert features.maps == MAPS and features.stages == ("s1", "s2")


def test_half_precision_takes_half_the_room(tmp_path):
    assert (
        write(tmp_path, dtype="float16").bytes * 2
        == Writer(tmp_path / "x", PRINT, MAPS, "float32").bytes
    )
    found = StoredMaps.open(tmp_path, PRINT).arrays["s1"]
    assert found.dtype == torch.float16 and torch.equal(found, VALUES[0].half())


def test_a_batchs_maps_are_cut_as_its_images(tmp_path):
    write(tmp_path)
    index = torch.tensor([7, 0, 7])
    draws = TrainDraws(
        Shifts(torch.tensor([[0, 3], [2, 2], [4, 1]]), torch.tensor([True, False, True])),
        None,
        None,
    )
    place = {"source": (8, 8), "size": 8, "padding": 2}
    arrays = StoredMaps.open(tmp_path, PRINT).arrays
    found = stored_maps_of_batch(arrays, index, draws, names=("s2", "s1"), **place)
    for ours, values in zip(found, reversed(VALUES), strict=True):
        assert torch.equal(ours, transform_maps(values[index], draws, *place.values()))


def test_stored_maps_pair_as_a_teachers(tmp_path):
    write(tmp_path)
    student = registry.backbone("deit_tiny", 32, embed_dim=24, num_layers=3)
    features = StoredMaps.open(tmp_path, PRINT)
    assert pair_maps(student, features) == (("blocks.0", "blocks.2"), ("s1", "s2"))
    with pytest.raises(
        ValueError, match=r"--guide_teacher s3: StoredMaps has no map of this name; it has s1, s2"
    ):
        pair_maps(student, features, teacher_names=["s3"])


@pytest.mark.parametrize("torn", [False, True])
def test_writing_goes_on_where_it_was_interrupted(tmp_path, torn):
    assert write(tmp_path, stop=4).done == 6
    with pytest.raises(
        ValueError,
        match=r"holds 6 of 10 images: give the same command of multicrop precompute again",
    ):
        StoredMaps.open(tmp_path, PRINT)
    if torn:  # a batch of which only one map was written, when the machine stopped
        with open(tmp_path / "s1.npy", "ab") as file:
            file.write(b"\x07" * 1000)
    before = (tmp_path / "s2.npy").read_bytes()
    assert write(tmp_path).done == IMAGES
    assert (tmp_path / "s2.npy").read_bytes()[: len(before)] == before
    for name, values in zip(MAPS, VALUES, strict=True):
        assert torch.equal(StoredMaps.open(tmp_path, PRINT).arrays[name], values)


@pytest.mark.parametrize("left", [0, 300, None])
def test_maps_that_are_lost_are_not_taken_for_zeros(tmp_path, left):
    """An array's file that is shorter than what is done, or gone, when writing is to go on."""
    write(tmp_path, stop=6)
    if left is None:
        (tmp_path / "s2.npy").unlink()
    else:
        os.truncate(tmp_path / "s2.npy", left)
    with pytest.raises(ValueError, match=r"s2\.npy has lost maps .*make the features anew"):
        write(tmp_path)


def test_a_flipped_bit_of_a_map_is_refused(tmp_path):
    write(tmp_path)
    content = bytearray((tmp_path / "s1.npy").read_bytes())
    content[-2000] ^= 4
    (tmp_path / "s1.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"s1\.npy is damaged in the maps of images 6 to 8"):
        StoredMaps.open(tmp_path, PRINT)


def test_features_of_versions_without_checksums_are_read_and_gone_on_with(tmp_path):
    write(tmp_path, stop=6)
    header = json.loads((tmp_path / HEADER).read_text())
    for name in ("batches", "beginnings", "hash"):
        del header[name]
    (tmp_path / HEADER).write_text(json.dumps(header))
    write(tmp_path)
    assert torch.equal(StoredMaps.open(tmp_path, PRINT).arrays["s2"], VALUES[1])


def test_whole_features_are_left_alone(tmp_path):
    write(tmp_path)
    stamp = (tmp_path / HEADER).stat().st_mtime_ns
    assert write(tmp_path).done == IMAGES and (tmp_path / HEADER).stat().st_mtime_ns == stamp


def test_a_disk_without_room_is_said_before(tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 13000})
    monkeypatch.setattr(
        teacher_maps.shutil, "disk_usage", lambda path: usage if path == tmp_path else None
    )
    writer = Writer(tmp_path / "new" / "features", PRINT, MAPS, "float32")
    assert writer.bytes == 14080
    with pytest.raises(
        OSError,
        match=r"features needs 0.0 MB and the disk has 0.0 MB free: make room, choose another",
    ):
        writer.check_space()
    assert not (tmp_path / "new").exists()
    usage.free = 14080
    writer.check_space()


def test_what_is_stored_needs_no_room(tmp_path, monkeypatch):
    write(tmp_path, stop=6)
    monkeypatch.setattr(
        teacher_maps.shutil, "disk_usage", lambda path: type("usage", (), {"free": 14080 * 4 // 10})
    )
    Writer(tmp_path, PRINT, MAPS, "float32").check_space()


def test_a_disk_that_fills_up_on_the_way(tmp_path, monkeypatch):
    write(tmp_path, stop=3)
    writer = Writer(tmp_path, PRINT, MAPS, "float32")

    def full(_):
        raise OSError(28, "No space left on device")

    with writer:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(
            OSError,
            match=r"No space left on device; 3 of 10 images are stored, and the same command",
        ):
            writer.append([values[3:6] for values in VALUES])
    monkeypatch.undo()
    write(tmp_path)
    assert torch.equal(StoredMaps.open(tmp_path, PRINT).arrays["s2"], VALUES[1])


def test_the_folder_is_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*x: File exists"):
        write(tmp_path / "x")


def changed_pixels():
    found = pixels()
    found[3, 0, 0, 0] += 1
    return found


@pytest.mark.parametrize(
    ("fingerprint", "message"),
    [
        (images_of("cifar10", pixels(), LABELS), r"data set shapes \(here cifar10\)"),
        (images_of("shapes", pixels(1), LABELS), r"images with hash \w+ \(here \w+\): give"),
        (images_of("shapes", changed_pixels(), LABELS), "images with hash"),
        (
            images_of("shapes", pixels(), LABELS.flip(0)),
            r"features: labels with hash \w+ \(here \w+\): give",
        ),
        (images_of("shapes", pixels()[:9], LABELS[:9]), r"number of images 10 \(here 9\)"),
        (
            images_of("shapes", pixels()[..., :4], LABELS),
            r"stored images of 8 x 8 px \(here 8 x 4 px\)",
        ),
        (
            {"teacher": "b", "batch_norm": "batch"},
            r"teacher with hash a \(here b\); batch norms by running \(here batch",
        ),
    ],
)
def test_features_of_other_images_or_teachers(tmp_path, fingerprint, message):
    write(tmp_path, fingerprint=PRINT | {"teacher": "a", "batch_norm": "running"})
    with pytest.raises(ValueError, match=message) as error:
        StoredMaps.open(tmp_path, fingerprint)
    assert str(error.value).startswith(f"{tmp_path} holds other features: ") and "\n" not in str(
        error.value
    )


def test_other_features_are_not_written_over(tmp_path):
    write(tmp_path, stop=3, fingerprint=PRINT | {"teacher": "a"})
    with pytest.raises(
        ValueError, match=r"teacher with hash a \(here b\): choose another --output"
    ):
        Writer(tmp_path, PRINT | {"teacher": "b"}, MAPS, "float32")
    with pytest.raises(ValueError, match=r"numbers in float32 \(here float16\)"):
        Writer(tmp_path, PRINT | {"teacher": "a"}, MAPS, "float16")
    with pytest.raises(ValueError, match=r"maps \{'s1'.*"):
        Writer(tmp_path, PRINT | {"teacher": "a"}, {"s1": MAPS["s1"]}, "float32")


def test_no_features(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no features at .*: make them by multicrop precompute --output"
    ):
        StoredMaps.open(tmp_path / "none", PRINT)


def test_damaged_features(tmp_path):
    write(tmp_path)
    whole = (tmp_path / "s1.npy").read_bytes()
    for damaged in (whole[:1000], b"", b"x" * 2000):
        (tmp_path / "s1.npy").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"s1.npy is damaged \(.*make the features anew"):
            StoredMaps.open(tmp_path, PRINT)
    np.save(tmp_path / "s1.npy", np.zeros((10, 4, 8, 7), np.float32))
    with pytest.raises(ValueError, match=r"s1.npy is not what features.json beside it says"):
        StoredMaps.open(tmp_path, PRINT)
    (tmp_path / HEADER).write_text(json.dumps(PRINT)[:30])
    with pytest.raises(ValueError, match=r"features.json is damaged"):
        StoredMaps.open(tmp_path, PRINT)


def test_values_that_a_type_cannot_hold(tmp_path):
    large = [1e5 * values for values in VALUES]
    with Writer(tmp_path, PRINT, MAPS, "float16") as writer:
        with pytest.raises(ValueError, match=r"map s1 .* too large for float16: --dtype float32"):
            writer.append(large)
        assert writer.done == 0
    with Writer(tmp_path, PRINT, MAPS, "float32") as writer:
        writer.append(large)
        with pytest.raises(ValueError, match=r"map s2 has values that are not finite$"):
            writer.append([large[0], large[1] * float("nan")])


def test_teachers_are_told_apart():
    def network(seed: int):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))

    same, other = (
        teacher_fingerprint(Teacher(network(0), 8)),
        teacher_fingerprint(Teacher(network(1), 8)),
    )
    assert same == teacher_fingerprint(Teacher(network(0), 8)) and {
        k for k in same if same[k] != other[k]
    } == {"teacher"}
    assert teacher_fingerprint(Teacher(network(0), 16, batch_norm="batch")) == same | {
        "size": "16 px",
        "batch_norm": "batch",
    }


def test_sizes_for_people():
    assert (format_bytes(5_734_400_000), format_bytes(2_500_000)) == ("5.73 GB", "2.5 MB")
