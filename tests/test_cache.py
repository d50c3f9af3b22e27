"""The image cache: what is stored, when it is rebuilt, damage, two builders at once, no room."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import launch
from PIL import Image
from torchvision.transforms import functional as F

import multicrop
from multicrop.datasets import _cache, _decode, _decode_all, _decoder, _stopping
from multicrop.datasets._cache import load_cached
from multicrop.datasets._moving import take_name
from multicrop.engine.interrupt import Stopped

ROOT = Path(multicrop.__file__).parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def write(folder: Path, count: int, side: int = 8) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:04d}.png" for i in range(count)]
    for i, name in enumerate(names):
        Image.fromarray(noise(side, side, seed=i)).save(folder / name)
    return names


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


@pytest.mark.parametrize("count", [5, 300], ids=["in this process", "in workers"])
def test_square_images_are_stored_as_they_are(tmp_path, count):
    names = write(tmp_path / "a", count)
    found = load_cached(tmp_path / "a", names, 64)
    expected = np.stack([noise(8, 8, seed=i).transpose(2, 0, 1) for i in range(count)])
    assert np.array_equal(found.pixels.numpy(), expected)
    assert found.kept.tolist() == list(range(count))
    unit = expected / 255
    np.testing.assert_allclose(found.mean, unit.mean((0, 2, 3)), atol=1e-9)
    np.testing.assert_allclose(found.std, unit.std((0, 2, 3)), atol=1e-9)


@pytest.mark.parametrize("count", [5, 300], ids=["in this process", "in workers"])
def test_one_image_of_another_size_resizes_all(tmp_path, count):
    names = write(tmp_path / "a", count)
    Image.fromarray(noise(9, 12)).save(
        tmp_path / "a" / names[-2]
    )  # not in the sample of headers when there are 300
    assert load_cached(tmp_path / "a", names, 16).pixels.shape == (count, 3, 16, 16)


def test_larger_images_are_resized_and_centre_cropped(tmp_path):
    image = Image.fromarray(noise(60, 40)).resize((90, 60), Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.png")
    found = load_cached(tmp_path, ["a.png"], 24).pixels[0]
    whole = F.resize(image, 24, F.InterpolationMode.BICUBIC)  # 36 x 24
    expected = F.pil_to_tensor(F.center_crop(whole, 24))
    assert (found.int() - expected.int()).abs().max() <= 1


def test_draft_decoding_of_large_jpegs_is_close_to_full_decoding(tmp_path):
    smooth = Image.fromarray(noise(12, 16)).resize((960, 720), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=95)
    found = load_cached(tmp_path, ["a.jpg"], 24).pixels[0]
    with Image.open(tmp_path / "a.jpg") as image:
        full = F.pil_to_tensor(F.center_crop(F.resize(image, 24, F.InterpolationMode.BICUBIC), 24))
    assert (found.int() - full.int()).abs().float().mean() < 1.5


def test_modes_become_rgb(tmp_path):
    grey, alpha = noise(8, 8, 1)[..., 0], np.full((8, 8), 255, np.uint8)
    alpha[:4] = 0
    deep = grey.astype(np.uint16) * 257
    files = {
        "L.png": Image.fromarray(grey),
        "I16.png": Image.fromarray(deep),
        "RGBA.png": Image.fromarray(np.dstack([grey] * 3 + [alpha])),
        "P.png": Image.fromarray(grey).convert("P"),
        "CMYK.tif": Image.fromarray(np.dstack([grey] * 3)).convert("CMYK"),
        "F.tif": Image.fromarray(grey.astype(np.float32) / 255),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
    found = dict(zip(files, load_cached(tmp_path, [*files], 64).pixels.numpy(), strict=True))
    for name in ("L.png", "I16.png", "P.png", "CMYK.tif", "F.tif"):
        assert np.array_equal(found[name], np.stack([grey] * 3)), name
    assert (found["RGBA.png"][:, :4] == 255).all() and np.array_equal(
        found["RGBA.png"][0, 4:], grey[4:]
    )


def test_exif_orientation_is_respected(tmp_path):
    exif = Image.Exif()
    exif[_decode.ORIENTATION] = 6  # to be turned clockwise by a quarter
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(noise(8, 8), -1).transpose(2, 0, 1)
    assert np.array_equal(load_cached(tmp_path, ["a.png"], 8).pixels[0].numpy(), expected)


@pytest.mark.parametrize("count", [20, 300], ids=["in this process", "in workers"])
def test_unreadable_images_are_left_out_and_named(tmp_path, capsys, count):
    names = write(tmp_path, count)
    (tmp_path / names[0]).write_bytes(b"no image")
    (tmp_path / names[3]).write_bytes((tmp_path / names[3]).read_bytes()[:90])
    (tmp_path / names[4]).write_bytes(b"")
    for _ in range(2):  # built, then read back
        found = load_cached(tmp_path, names, 64)
        kept = [i for i in range(count) if i not in (0, 3, 4)]
        assert found.kept.tolist() == kept
        assert np.array_equal(
            found.pixels.numpy(), np.stack([noise(8, 8, seed=i).transpose(2, 0, 1) for i in kept])
        )
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert f"3 unreadable images of {count}" in error  # said once
    assert all(names[i] in error for i in (0, 3, 4))
    np.testing.assert_allclose(found.mean, found.pixels.double().mean((0, 2, 3)) / 255, atol=1e-9)


def test_the_list_of_unreadable_images_is_cut(tmp_path, capsys):
    names = write(tmp_path, 20)
    for name in names[:15]:
        (tmp_path / name).write_bytes(b"no image")
    load_cached(tmp_path, names, 64)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.count(".png") == 10 and line.endswith("and 5 more")


def test_all_unreadable_is_an_error_and_leaves_nothing(tmp_path, cache):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the 1 images in .* is readable; a\.png"):
        load_cached(tmp_path, ["a.png"], 64)
    assert entries(cache) == []


def test_second_read_decodes_nothing(tmp_path, monkeypatch):
    names = write(tmp_path, 5)
    first = load_cached(tmp_path, names, 64)
    monkeypatch.setattr(_decode, "decode", None)
    assert torch.equal(load_cached(tmp_path, names, 64).pixels, first.pixels)


def test_changed_folder_is_decoded_again_and_the_old_entry_removed(tmp_path, cache):
    folder = tmp_path / "a"
    names = write(folder, 5)
    before = load_cached(folder, names, 64).pixels
    old = entries(cache)
    Image.fromarray(noise(8, 8, seed=99)).save(folder / names[2])
    after = load_cached(folder, names, 64).pixels
    assert torch.equal(after[:2], before[:2]) and not torch.equal(after[2], before[2])
    assert len(entries(cache)) == 1 and entries(cache) != old
    assert len(load_cached(folder, write(folder, 6), 64).pixels) == 6
    assert len(entries(cache)) == 1


def test_touched_file_counts_as_changed(tmp_path, cache):
    names = write(tmp_path / "a", 2)
    load_cached(tmp_path / "a", names, 64)
    old = entries(cache)
    os.utime(tmp_path / "a" / names[0], ns=(1, 1))
    load_cached(tmp_path / "a", names, 64)
    assert entries(cache) != old


def test_other_source_size_and_part_have_their_own_entries(tmp_path, cache):
    names = write(tmp_path / "a", 4, side=16)
    assert load_cached(tmp_path / "a", names, 8).pixels.shape[-1] == 8
    assert load_cached(tmp_path / "a", names, 16).pixels.shape[-1] == 16
    assert len(load_cached(tmp_path / "a", names[:2], 16, "test").pixels) == 2
    assert len(entries(cache)) == 3


@pytest.mark.parametrize("file", ["pixels.bin", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "absent"])
def test_damaged_entry_is_built_again(tmp_path, cache, file, damage):
    names = write(tmp_path / "a", 5)
    expected = load_cached(tmp_path / "a", names, 64).pixels.clone()
    path = cache / entries(cache)[0] / file
    content = path.read_bytes()
    path.unlink()
    if damage != "absent":
        path.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    assert torch.equal(load_cached(tmp_path / "a", names, 64).pixels, expected)


def test_pixels_may_be_written_without_touching_the_cache(tmp_path):
    names = write(tmp_path / "a", 5)
    first = load_cached(tmp_path / "a", names, 64).pixels
    expected = first.clone()
    first.zero_()
    assert torch.equal(load_cached(tmp_path / "a", names, 64).pixels, expected)


BUILD = """
import sys
from pathlib import Path
from multicrop.datasets import _cache
from multicrop.datasets._cache import load_cached
build = _cache._build
_cache._build = lambda *args: (print("building", flush=True), build(*args))
root = Path(sys.argv[1])
print(load_cached(root, sorted(p.name for p in root.iterdir()), 64).pixels.sum().item())
"""


@pytest.mark.slow
def test_two_processes_at_once_build_once(tmp_path, cache):
    names = write(tmp_path / "a", 400)
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    done = launch(str(script), tmp_path / "a", ranks=2)
    assert done.returncode == 0, done.stderr
    total = sum(int(noise(8, 8, seed=i).sum(dtype=np.int64)) for i in range(len(names)))
    assert sorted(done.stdout.split()) == [str(total), str(total), "building"]
    assert len(entries(cache)) == 1


def test_unusable_cache_folder_is_one_clear_line(tmp_path, monkeypatch):
    names = write(tmp_path / "a", 2)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=r"cannot use the image cache in .*file.*MULTICROP_CACHE"):
        load_cached(tmp_path / "a", names, 64)


def test_too_little_room_is_said_before_decoding(tmp_path, cache, monkeypatch):
    names = write(tmp_path / "a", 2)
    monkeypatch.setattr(_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(OSError, match=r"GB are needed and 0.00 GB are free.*MULTICROP_CACHE"):
        load_cached(tmp_path / "a", names, 64)
    assert entries(cache) == []


LIMITED = """
import resource, sys
from pathlib import Path
from multicrop.datasets._cache import load_cached
root = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    load_cached(root, sorted(p.name for p in root.iterdir()), 64)
except OSError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="resource limits")
@pytest.mark.parametrize("count", [40, 300], ids=["in this process", "in workers"])
def test_failing_write_is_one_clear_line_and_leaves_nothing(tmp_path, cache, count):
    write(tmp_path / "a", count)
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)
    done = launch(str(script), tmp_path / "a")
    assert "cannot use the image cache" in done.stdout and "File too large" in done.stdout
    assert entries(cache) == []


def test_dead_worker_is_an_error(tmp_path, monkeypatch):
    names = write(tmp_path / "a", 300)
    monkeypatch.setattr(_cache.sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError, match="ended"):
        load_cached(tmp_path / "a", names, 64)


def test_the_worker_imports_neither_torch_nor_this_package():
    program = _decoder.__file__
    code = f"import runpy, sys; runpy.run_path({program!r})['import_alone']('_decode'); print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/"
    ).stdout.split()
    assert "PIL" in modules and not {"torch", "torchvision", "multicrop"} & set(modules)


def test_a_flipped_bit_is_noticed_and_mended(tmp_path, cache, capsys, record_property):
    """In the pixels, and in every tenth byte of what the entry says of them."""
    names = write(tmp_path / "a", 20)
    whole = load_cached(tmp_path / "a", names, 8)
    pixels = whole.pixels.clone()  # they lie over the file that is damaged
    (entry,) = [path for path in cache.iterdir() if path.is_dir()]
    places = [("pixels.bin", 777)]
    places += [("meta.json", at) for at in range(0, (entry / "meta.json").stat().st_size, 10)]
    record_property("tries", len(places))
    for name, at in places:
        content = bytearray((entry / name).read_bytes())
        content[at] ^= 1 << at % 7
        (entry / name).write_bytes(content)
        found = load_cached(tmp_path / "a", names, 8)
        assert found.pixels.equal(pixels), (name, at)
        assert (found.mean, found.std, found.skipped) == (whole.mean, whole.std, []), (name, at)
    assert "its entry of the image cache is damaged and made anew" in capsys.readouterr().err


@pytest.mark.parametrize("torn", [False, True])
def test_a_decoding_that_a_signal_ended_goes_on(tmp_path, cache, monkeypatch, torn):
    """torn: of one chunk that is said to be done the bytes did not reach the disk."""
    names = write(tmp_path / "a", 64 * 8)
    expected = load_cached(tmp_path / "a", names, 4).pixels.clone()
    shutil.rmtree(cache)
    asked = []

    def stop_after_two_chunks() -> None:
        asked.append(None)
        if len(asked) > 4:
            raise Stopped

    monkeypatch.setattr(_decode_all, "processors", lambda: 2)
    with _stopping.asking(stop_after_two_chunks), pytest.raises(Stopped):
        load_cached(tmp_path / "a", names, 4)
    (work,) = [path for path in cache.iterdir() if path.is_dir()]
    lines = (work / "chunks.jsonl").read_text().splitlines()
    done = len([line for line in lines if line]) - 1
    assert done == 4
    with open(work / "chunks.jsonl", "a") as journal:
        journal.write('{"start": 320, "notes": {}')  # killed within a line
    if torn:
        content = bytearray((work / "pixels.bin").read_bytes())
        content[5] ^= 1
        (work / "pixels.bin").write_bytes(content)
    chunks = []
    with _stopping.asking(lambda: chunks.append(None)):
        found = load_cached(tmp_path / "a", names, 4)
    assert found.pixels.equal(expected) and len(chunks) == 8 - done + torn
    assert entries(cache) == [work.name.removesuffix("-building")]


def test_chunks_of_other_files_are_not_taken(tmp_path, cache):
    names = write(tmp_path / "a", 300)
    with _stopping.asking(stop), pytest.raises(Stopped):
        load_cached(tmp_path / "a", names, 8)
    Image.fromarray(noise(8, 8, seed=99)).save(tmp_path / "a" / names[0])
    os.utime(tmp_path / "a" / names[0], (1, 1))
    found = load_cached(tmp_path / "a", names, 8)
    assert np.array_equal(found.pixels[0].numpy(), noise(8, 8, seed=99).transpose(2, 0, 1))
    assert len(entries(cache)) == 1


def stop() -> None:
    raise Stopped


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux which folder it is")
def test_what_takes_its_name_is_on_the_disk_by_that_name(tmp_path, monkeypatch):
    """The folder is flushed after the renaming; without that a power cut can leave neither name."""
    (tmp_path / "work").write_text("whole")
    flushed = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    take_name(tmp_path / "work", tmp_path / "place")
    assert (tmp_path / "place").read_text() == "whole" and not (tmp_path / "work").exists()
    assert flushed == [str(tmp_path.resolve())]
