"""Which files are images, which are left out and why, and that multicrop check accounts for every file there is."""

import os
import shutil

import numpy as np
import pytest
import torch
from conftest import content_of, launch, recipe, result_of
from PIL import Image, features

from multicrop.commands import check as checking
from multicrop.commands import finetune
from multicrop.config.check import Recipe
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.flags import to_flags
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.datasets import _console, _endings
from multicrop.datasets._images import LoadOptions
from multicrop.engine.run import Run
from multicrop.registry import source

# Endings that Pillow opens wherever it is installed, and the format that writes such a file
WRITTEN = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".mpo": "MPO", ".png": "PNG", ".apng": "PNG", ".bmp": "BMP",
    ".dib": "DIB", ".ppm": "PPM", ".pnm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF", ".tga": "TGA",
    ".pcx": "PCX", ".sgi": "SGI", ".webp": "WEBP", ".dds": "DDS", ".ico": "ICO", ".im": "IM",
}  # fmt: skip
OPTIONAL = {".jp2": ("JPEG2000", "jpg_2000"), ".avif": ("AVIF", "avif")}  # and what Pillow calls it


def noise(seed=0, side=16):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(pixels)


def write(path, seed=0, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed).save(path, kind)


def check(path):
    return checking.run(Recipe(str(path), workers=1))


def files_there(folder) -> int:
    """What a user would count; a link is one file."""
    total = 0
    for place, folders, files in os.walk(folder):
        total += len(files) + sum(os.path.islink(os.path.join(place, name)) for name in folders)
    return total


def accounts(folder) -> dict:
    """The accounting of check, whose sum is right."""
    files = check(folder)["files"]
    total = files["used"] + files["unreadable"] + sum(files["left_out"].values())
    assert total == files["files"] == files_there(folder)
    return files


@pytest.mark.parametrize("upper", [False, True])
def test_every_ending_that_pillow_opens(tmp_path, upper):
    kinds = dict(WRITTEN)
    for name, (kind, feature) in OPTIONAL.items():
        if features.check(feature):
            kinds[name] = kind
    for i, (name, kind) in enumerate(kinds.items()):
        write(tmp_path / "a" / f"{i:02d}{name.upper() if upper else name}", i, kind)
        write(tmp_path / "b" / f"{i:02d}.png", i)
    assert accounts(tmp_path) == {
        "files": 2 * len(kinds), "used": 2 * len(kinds), "unreadable": 0, "left_out": {}
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["a.pdf", "a.eps", "a.ps", "a.mpg", "a.h5", "a.fli", "a.txt", "png"]
)
def test_documents_films_and_measurements_are_no_images(name):
    assert not _endings.is_image(name)


def test_endings_are_those_of_the_installed_pillow():
    Image.init()
    opened = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    assert {".jpg", ".png", ".tga"} <= set(_endings.image_endings()) <= {*opened, ".mpo"}


@pytest.fixture
def without_heif(monkeypatch):
    """As where pillow-heif is not installed."""
    endings = tuple(e for e in _endings.image_endings() if not e.startswith((".hei", ".hif")))
    monkeypatch.setattr(_endings, "image_endings", lambda: endings)


def test_what_is_left_out_is_said_in_one_line_with_the_remedy(tmp_path, capsys, without_heif):
    for name in ("cat", "dog"):
        for i in range(3):
            write(tmp_path / name / f"{i}.png", i)
    for i in range(5):
        (tmp_path / "cat" / f"{i}.HEIC").write_bytes(b"x")
    write(tmp_path / "loose.png"), write(tmp_path / "other.tga", kind="TGA")
    (tmp_path / "cat" / "notes.txt").write_text("")
    for split in ("train", "test"):
        assert len(source("image_folder").listing(tmp_path, split).names) == (
            4 if split == "train" else 2
        )
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    wanted = "2 outside class folders, 5 .heic (pip install pillow-heif)"
    assert said == [f"left out of {tmp_path}: {wanted}"]
    left_out = accounts(tmp_path)["left_out"]
    assert left_out == {".heic (pip install pillow-heif)": 5, "outside class folders": 2, ".txt": 1}


@pytest.mark.parametrize("name", ["image_folder", "images"])
def test_files_that_may_be_images_by_no_ending_are_said_in_runs(tmp_path, capsys, name):
    for folder in ("cat", "dog"):
        for i in range(3):
            write(tmp_path / folder / f"{i}.png", i)
    write(tmp_path / "cat" / "IMG_0001"), write(tmp_path / "dog" / "IMG_0002", 1)
    np.save(tmp_path / "cat" / "x.npy", np.zeros((8, 8)))
    (tmp_path / "cat" / "scan.mat").write_bytes(b"x"), (tmp_path / "README").write_text("")
    source(name).listing(tmp_path, "train")
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    for words in (
        "2 without an ending (give each the ending",
        "1 .npy (convert",
        "1 .mat (convert",
    ):
        assert words in said
    assert "readme" not in said and accounts(tmp_path)["left_out"]["readme"] == 1


@pytest.mark.parametrize("folder", ["a", "."])
def test_a_folder_of_nothing_but_heic_says_what_to_install(tmp_path, without_heif, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    for i in range(3):
        (tmp_path / folder / f"{i}.heic").write_bytes(b"x")
    wanted = r"left out: 3 \.heic \(pip install pillow-heif\)"
    with pytest.raises(ValueError, match=wanted):
        check(tmp_path)
    with pytest.raises(ValueError, match=wanted):
        source("images").load(tmp_path, "train")


@pytest.mark.parametrize("ending", [".heic", ".jpg"])
def test_heic_is_read_where_pillow_heif_is_installed(tmp_path, ending):
    """Also under another name, and by the streaming workers."""
    heif = pytest.importorskip("pillow_heif")
    if ending not in _endings.image_endings():
        pytest.skip("this pillow-heif registers other endings")
    for i in range(3):
        smooth = noise(i, 4).resize((32, 32), Image.Resampling.BICUBIC)
        file = heif.from_pillow(smooth)
        file.save(str(tmp_path / "image.heic"), quality=95)
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.move(tmp_path / "image.heic", tmp_path / "in" / f"{i}{ending}")
    for stream in (False, True):
        images = source("images").load(
            tmp_path / "in", "train", LoadOptions(source_size=32, stream=stream, workers=1)
        )
        pixels = images.pixels[:].float()
        wanted = noise(0, 4).resize((32, 32), Image.Resampling.BICUBIC)
        wanted = torch.from_numpy(np.array(wanted)).permute(2, 0, 1)
        assert len(pixels) == 3 and (pixels[0] - wanted).abs().mean() < 12


def every_kind(folder):
    """Eleven images as cameras, scanners and programs write them."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for number, ending in enumerate(("jpg", "webp", "tif")):
        noise(80 + number).save(folder / f"turned.{ending}", exif=turned)
    noise(84).convert("CMYK").save(folder / "cmyk.jpg")
    noise(85).quantize(16).save(folder / "palette.png")
    noise(86).quantize(16).save(folder / "transparent.png", transparency=3)
    noise(87).convert("LA").save(folder / "grey_alpha.png")
    noise(88).convert("RGBA").save(folder / "alpha.png")
    deep = np.random.default_rng(89).integers(0, 65536, (16, 16), np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    frames = [noise(90 + number) for number in range(3)]
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])


def mess(root):
    """Class folders as they come from phones, network drives and other people."""
    for split, each in (("Train", 6), ("Test", 3), ("Val", 2)):
        for c, name in enumerate(("cat", "dog")):
            for i in range(each):
                write(root / "photos" / split / name / f"{i}.png", 100 * c + i)
    train = root / "photos" / "Train"
    write(train / "cat" / "x.tga", 50, "TGA"), write(train / "dog" / "deep" / "y.JPG", 51, "JPEG")
    (train / "dog" / "bad.png").write_bytes(b"no image")
    (train / "dog" / "cut.png").write_bytes((train / "dog" / "0.png").read_bytes()[:200])
    (train / "cat" / "raw.cr2").write_bytes(b"x")
    (train / "cat" / "notes.txt").write_text("")
    (train / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    (train / "cat" / "all").symlink_to(root, target_is_directory=True)
    (train / "cat" / "dogs").symlink_to(train / "dog", target_is_directory=True)
    write(train / "unlabeled" / "0.png", 60), write(train / "loose.png", 61)
    write(train / "cat" / ".hidden.png", 62), write(train / "dog" / "@eaDir" / "0.png", 63)
    write(root / "__MACOSX" / "0.png", 64), write(root / ".git" / "0.png", 65)
    write(root / "runs" / "old" / "crops.png", 66)
    every_kind(train / "cat")
    (train / "dog" / "page.jpg").write_bytes(b"<!doctype html><html>not found</html>")
    (train / "dog" / "empty.png").write_bytes(b"")
    for i in range(4):  # a class that the validation images lack
        split = "Test" if i == 3 else "Train"
        write(root / "photos" / split / "owl" / f"{i}.png", 70 + i)
    (root / "photos" / "Val" / "owl").mkdir()
    others = ("._0.png", "Thumbs.db", "desktop.ini", "page.html", "sheet.xlsx", "clip.mp4", "a.npy")
    for name in others:
        (train / "cat" / name).write_bytes(b"x")
    (root / "runs" / "old" / "recipe.yaml").write_text(
        "output_dir: r\nsave_steps: 1\nlog_freq: 1\n"
    )


LEFT_OUT = {
    "without labels in unlabeled/ (pretraining takes them: --dataset images)": 1, "outside class folders": 1,
    "in system folders": 2, "in hidden folders": 1, "in run folders": 2, "hidden": 2, "broken link": 1,
    "link to what is read anyway": 2, ".cr2 (convert them to PNG or TIFF)": 1, ".txt": 1,
    ".db": 1, ".ini": 1, ".html": 1, ".xlsx": 1, ".mp4": 1, ".npy (convert them to PNG or TIFF)": 1,
}  # fmt: skip


def test_every_file_of_a_messy_folder_is_accounted_for(tmp_path, capsys):
    mess(tmp_path)
    assert accounts(tmp_path) == {"files": 63, "used": 39, "unreadable": 4, "left_out": LEFT_OUT}
    said = capsys.readouterr().err
    assert "files: 63 = 39 used + 4 unreadable + 20 left out: " in said
    found = check(tmp_path)
    assert found["train"]["per_class"] == {"cat": 18, "dog": 11, "owl": 3}
    assert (found["test"]["images"], found["val"]["images"]) == (7, 4)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_every_file_of_a_messy_archive_is_accounted_for(tmp_path, kind):
    mess(tmp_path / "in")
    for link in ("gone.png", "all", "dogs"):
        (tmp_path / "in" / "photos" / "Train" / "cat" / link).unlink()
    files = check(shutil.make_archive(str(tmp_path / "mess"), kind, tmp_path / "in"))["files"]
    left_out = {key: count for key, count in LEFT_OUT.items() if "link" not in key}
    assert files == {"files": 60, "used": 39, "unreadable": 4, "left_out": left_out}


def test_unlabelled_images_are_accounted_for_too(tmp_path):
    mess(tmp_path)
    files = check(tmp_path / "photos" / "Train" / "dog")["files"]
    assert files["used"] == 7 and files["unreadable"] == 4
    assert files["left_out"] == {"in system folders": 1}


SHORT = {
    "image_size": 16, "embed_dim": 24, "num_layers": 1, "num_heads": 2, "patch_size": 8, "epochs": 1,
}  # fmt: skip


def flags(**values) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


@pytest.mark.slow
def test_a_messy_folder_through_all_commands(tmp_path):
    """check, pretrain, knn, finetune, --eval: all read the same images, and say of each other file why they do not."""
    mess(tmp_path / "in")
    assert accounts(tmp_path / "in")["used"] == 39
    env = {"MULTICROP_CACHE": str(tmp_path / "cache")}
    data = flags(dataset="image_folder", datapath=tmp_path / "in")
    first = launch("train_ssl.py", *data, *flags(
        **SHORT, output_dir=tmp_path / "ssl", out_dim=16, local_crops_number=2, batch_size_per_gpu=4, knn_freq=1
    ), **env)  # fmt: skip
    assert result_of(first)["status"] == "finished"
    said = first.stderr.splitlines()
    assert sum("left out of" in line for line in said) == 1
    assert sum("train from photos/Train/, test from photos/Test/" in line for line in said) == 1
    assert sum("skipped 4 unreadable images" in line for line in said) == 1
    knn = result_of(launch("eval_knn.py", tmp_path / "ssl", **env))
    assert (knn["train_images"], knn["test_images"]) == (28, 7)
    second = launch("finetune.py", *data, *flags(
        pretrained_weights=tmp_path / "ssl", output_dir=tmp_path / "ft", epochs=1, batch_size=4
    ), **env)  # fmt: skip
    assert result_of(second)["status"] == "finished"
    assert content_of(tmp_path / "ft" / "checkpoint.pt")["data"]["classes"] == ["cat", "dog", "owl"]
    third = launch("finetune.py", "--eval", *data, *flags(
        pretrained_weights=tmp_path / "ft", output_dir=tmp_path / "scores"
    ), **env)  # fmt: skip
    assert result_of(third)["images"] == 7
    for run in (second, third):
        assert sum("left out of" in line for line in run.stderr.splitlines()) == 1
    # check's 39 used + 4 unreadable + 20 left out: 28 + 7 + 4 images of three splits, and what the runs have named
    validation = source("image_folder").listing(tmp_path / "in", "val").names
    assert knn["train_images"] + knn["test_images"] + len(validation) == 39


def test_a_messy_folder_is_scored_without_a_file_unaccounted_for(tmp_path, capsys, monkeypatch):
    """--eval: the test split beside training images; of one folder of classes all, but what cannot be read."""
    mess(tmp_path / "in")
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path / "cache"))
    network = {"embed_dim": 24, "num_layers": 1, "num_heads": 2, "image_size": 16, "patch_size": 8}
    shared = {"dataset": "image_folder", "device": "cpu", "epochs": 1, "batch_size": 4}
    finetune.run(recipe(
        Finetuning, scratch=True, datapath=str(tmp_path / "in"), output_dir=str(tmp_path / "ft"), **network, **shared
    ))  # fmt: skip
    for given, scored in ((tmp_path / "in", 7), (tmp_path / "in" / "photos" / "Train", 28)):
        _console.forget()
        capsys.readouterr()
        alone = tmp_path / f"alone{scored}"
        alone.symlink_to(given)
        weights = {"pretrained_weights": str(tmp_path / "ft"), "output_dir": str(tmp_path / "out")}
        result = finetune.run(recipe(Finetuning, eval=True, datapath=str(alone), **weights))
        said = capsys.readouterr().err
        assert result["images"] == scored
        if scored == 28:
            assert "4 unreadable images" in said and said.count("left out of") == 1
            assert "held out" not in said


def test_a_first_run_among_the_images_is_no_class(colours, tmp_path):
    """Its folder is there before its images are listed; whatever ends the run then, the next command knows it."""
    photos = tmp_path / "photos"
    shutil.copytree(colours, photos)
    classes = source("image_folder").listing(photos, "train").classes
    Run(photos / "runs" / "ssl", to_flags(Pretraining()))
    assert source("image_folder").listing(photos, "train").classes == classes


# check: a test folder alone, tables, folders of nothing that can be read


@pytest.mark.parametrize("given", [".", "test"])
def test_a_test_folder_alone_is_checked_and_gets_the_command_that_scores_it(
    tmp_path, capsys, given
):
    for name in ("cat", "dog"):
        for i in range(2):
            write(tmp_path / "test" / name / f"{i}.png", i)
    (tmp_path / "test" / "cat" / "bad.png").write_bytes(b"no image")
    found = check(tmp_path / given)
    assert (found["files"]["used"], found["files"]["unreadable"]) == (4, 1)
    if given == ".":
        assert found["test"]["images"] == 5 and "no train/ beside it" in found["train"]["error"]
        (command,) = found["commands"]
        assert command.startswith("python finetune.py --eval --dataset image_folder --datapath")
        assert "to measure a network on it" in capsys.readouterr().err


@pytest.mark.parametrize("names", [["labels"], ["train", "test"], ["test"]])
def test_every_file_beside_a_table_is_accounted_for(tmp_path, names):
    lines = []
    for i in range(12):
        write(tmp_path / "images" / f"{i}.png", i)
        lines.append(f"images/{i}.png,{'cat' if i % 3 else 'dog'}")
    (tmp_path / "images" / "0.png").write_bytes(b"no image")
    write(tmp_path / "images" / "stray.png"), (tmp_path / "notes.txt").write_text("")
    for part, name in enumerate(names):
        rows = lines[part :: len(names)] if len(names) > 1 else lines
        (tmp_path / f"{name}.csv").write_text("\n".join(["file,label", *rows, ""]))
    files = accounts(tmp_path)
    assert (files["used"], files["unreadable"]) == (11, 1)
    expected = {"in no row that is used": 1, ".csv": len(names), ".txt": 1}
    assert files["left_out"] == expected


@pytest.mark.parametrize("content", [b"no image", None])
@pytest.mark.parametrize("classes", [True, False])
def test_nothing_that_can_be_read_is_an_error(tmp_path, content, classes):
    """Whether their headers are damaged or what follows."""
    for name in ("cat", "dog"):
        for i in range(3):
            path = tmp_path / (name if classes else "") / f"{name}{i}.png"
            write(path, i)
            path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(ValueError, match="none of its 6 images can be read: mend or fetch them"):
        check(tmp_path)
