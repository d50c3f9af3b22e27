"""How image files become pixels: brightness of more than 8 bits, shape, channels and pages; nothing in silence."""

import json
import struct

import numpy as np
import pytest
import torch
from conftest import launch, result_of
from PIL import Image

from multicrop.commands import check as checking
from multicrop.config.check import Recipe as Check
from multicrop.datasets import _console, _decode, _tiff
from multicrop.datasets._cache import load_cached
from multicrop.datasets._convert import Conversion, Form
from multicrop.datasets._images import LoadOptions
from multicrop.registry import source


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MULTICROP_CACHE", str(folder))
    _console.forget()
    return folder


def random(seed=0):
    return np.random.default_rng(seed)


def save(folder, arrays, ending="tif"):
    """Write arrays as Pillow does; the names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:03d}.{ending}" for i in range(len(arrays))]
    for name, array in zip(names, arrays, strict=True):
        Image.fromarray(array).save(folder / name)
    return names


def pixels(folder, names, side=64, **conversion):
    return load_cached(folder, names, side, "", Conversion(**conversion)).pixels.numpy()


def counts(images, top, side=16, seed=0):
    """uint16 counts up to `top`, each image of its own brightness."""
    rng = random(seed)
    shares = np.linspace(0.2, 1, images)
    return [
        rng.integers(0, int(share * top) + 1, (side, side)).astype(np.uint16) for share in shares
    ]


# Brightness


@pytest.mark.parametrize("count", [12, 300], ids=["in this process", "in workers"])
def test_12_bit_counts_keep_their_levels_and_one_range_holds_for_all(tmp_path, capsys, count):
    arrays = counts(count, 4095)
    found = pixels(tmp_path, save(tmp_path, arrays, "png"))
    assert len(np.unique(found)) > 240
    expected = np.rint(np.stack(arrays) * (255 / 4095)).astype(np.uint8)
    for channel in range(3):
        assert np.array_equal(found[:, channel], expected)
    said = capsys.readouterr().err
    assert "integers of more than 8 bits: 0..4095 becomes black to white, measured on" in said
    assert "--value_range LOW HIGH" in said


@pytest.mark.parametrize("kind", ["floats", "int32"])
def test_values_of_any_scale_have_one_range_whatever_the_image(tmp_path, kind):
    rng, type_ = random(), np.float32 if kind == "floats" else np.int32
    arrays = [(rng.random((16, 16)) * top).astype(type_) for top in (100, 200, 900, 3000, 2900)]
    names = save(tmp_path, arrays)
    found = load_cached(tmp_path, names, 64)
    grey = found.pixels[:, 0].numpy()
    assert len(np.unique(grey)) > 200 and (grey == 255).mean() < 0.02
    low, high = found.conversion.floats or found.conversion.integers
    for array, image in zip(arrays, grey, strict=True):
        expected = np.clip(np.rint((array.astype(float) - low) * (255 / (high - low))), 0, 255)
        assert np.array_equal(image, expected)


def test_a_narrow_range_is_stretched_by_percentiles_and_outliers_are_cut(tmp_path, capsys):
    rng = random()
    arrays = [rng.integers(1000, 1200, (32, 32)).astype(np.uint16) for _ in range(8)]
    arrays[3][5, 5] = 65535  # a hot pixel
    found = load_cached(tmp_path, save(tmp_path, arrays, "png"), 64)
    low, high = found.conversion.integers
    assert (low, high) == (1000, 1199) and len(np.unique(found.pixels)) > 190
    assert "0.1 and 99.9 percentile 1000 and 1199" in capsys.readouterr().err


def test_a_stated_range_is_used_and_what_lies_outside_is_said(tmp_path, capsys):
    names = save(tmp_path, counts(6, 4095), "png")
    found = pixels(tmp_path, names, integers=(0.0, 1000.0))
    stored = np.stack([np.asarray(Image.open(tmp_path / name)) for name in names]).astype(float)
    assert np.array_equal(found[:, 0], np.clip(np.rint(stored * 0.255), 0, 255))
    said = capsys.readouterr().err
    assert "0..1000 becomes black to white, as stated" in said
    assert f"{(stored > 1000).mean():.0%} of the values lie outside the range" in said


def test_pixels_that_are_no_numbers_are_replaced_and_counted(tmp_path, capsys):
    arrays = [random(i).random((8, 8)).astype(np.float32) for i in range(3)]
    arrays[1][2, 3], arrays[1][4, 4], arrays[2][0, 0] = np.nan, np.inf, np.nan
    found = pixels(tmp_path, save(tmp_path, arrays))[:, 0]
    for array, image in zip(arrays, found, strict=True):
        usable = np.isfinite(array)
        assert np.array_equal(image[usable], np.rint(array[usable].astype(float) * 255))
    mean = arrays[1][np.isfinite(arrays[1])].astype(float).mean()
    assert found[1, 2, 3] == round(mean * 255) and found[1, 4, 4] == 255
    assert "3 pixels of 2 images are no finite numbers" in capsys.readouterr().err


def test_an_image_without_a_finite_number_is_unreadable(tmp_path, capsys):
    arrays = [np.full((8, 8), np.nan, np.float32), random().random((8, 8)).astype(np.float32)]
    assert len(pixels(tmp_path, save(tmp_path, arrays))) == 1
    assert "none of its values is a finite number" in capsys.readouterr().err


def test_a_deep_file_that_the_sample_misses_is_measured_too(tmp_path):
    names = save(
        tmp_path, [random(i).integers(0, 256, (8, 8), np.uint8) for i in range(300)], "png"
    )
    deep = random().integers(0, 4096, (8, 8)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / names[-2])
    found = load_cached(tmp_path, names, 64)
    assert found.conversion.integers == (0, 4095)
    assert np.array_equal(found.pixels[-2, 0].numpy(), np.rint(deep * (255 / 4095)))
    assert np.array_equal(found.pixels[0, 0].numpy(), np.asarray(Image.open(tmp_path / names[0])))


def test_streamed_pixels_have_the_range_of_the_cache(tmp_path):
    save(tmp_path / "a", counts(6, 4095), "png")
    save(tmp_path / "b", counts(6, 4095, seed=1), "png")
    both = [
        source("image_folder").load(tmp_path, "train", LoadOptions(stream=stream, workers=1))
        for stream in (False, True)
    ]
    assert both[0].conversion == both[1].conversion
    assert torch.equal(both[0].pixels, both[1].pixels[:])


def test_a_streamed_set_with_a_deep_file_among_others_is_one_line(tmp_path):
    names = save(
        tmp_path, [random(i).integers(0, 256, (8, 8), np.uint8) for i in range(200)], "png"
    )
    Image.fromarray(random().integers(0, 4096, (8, 8)).astype(np.uint16)).save(tmp_path / names[-2])
    load = source("images").load
    with pytest.raises(ValueError, match="--value_range LOW HIGH"):
        load(tmp_path, "train", LoadOptions(stream=True, workers=1))
    stated = Conversion(integers=(0.0, 4095.0))
    images = load(tmp_path, "train", LoadOptions(stream=True, workers=1, conversion=stated))
    assert images.pixels[-2].float().mean() > 90


def test_the_test_split_has_the_range_of_the_training_images(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "train" / name, counts(5, 4095), "png")
        save(tmp_path / "test" / name, counts(5, 900), "png")
    load = source("image_folder").load
    train, test = (load(tmp_path, split, LoadOptions()) for split in ("train", "test"))
    assert train.conversion.integers == test.conversion.integers == (0, 4095)
    assert test.pixels.max() <= 57


def test_eight_bits_stay_and_an_entry_serves_whatever_range_is_asked_for(tmp_path, cache, capsys):
    arrays = [random(i).integers(0, 256, (8, 8, 3), np.uint8) for i in range(4)]
    names = save(tmp_path / "a", arrays, "png")
    expected = np.stack(arrays).transpose(0, 3, 1, 2)
    for asked in (None, (0.0, 4095.0)):
        assert np.array_equal(pixels(tmp_path / "a", names, integers=asked), expected)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
    assert "becomes black to white" not in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_stated_range_acts_on_files_of_8_bits(tmp_path, capsys, mode, channels):
    """As on deeper ones: 50 becomes black, 150 white, and what is beyond is cut."""
    values = np.array([[0, 50], [100, 200]], np.uint8)
    image = Image.fromarray(values)
    image.convert("L" if mode == "tif" else mode).save(
        tmp_path / f"x.{'tif' if mode == 'tif' else 'png'}"
    )
    names = [path.name for path in tmp_path.iterdir()]
    found = pixels(tmp_path, names, bytes=(50.0, 150.0), channels=channels)
    assert found.shape[1] == channels
    assert np.abs(found[0, 0].astype(int) - [[0, 0], [128, 255]]).max() <= 1
    said = capsys.readouterr().err
    assert "values of 8 bits: 50..150 becomes black to white, as stated" in said
    assert "50% of the values lie outside the range" in said


def test_a_range_of_8_bits_is_inherited_and_an_old_entry_serves_without(tmp_path, cache):
    from multicrop.commands._conversion import conversion_of, described_conversion
    from multicrop.config.data import DataSettings
    from multicrop.datasets._folders import Listing, image_set
    from multicrop.engine.metadata import Metadata

    save(tmp_path / "a", [np.full((8, 8, 3), 80, np.uint8)], "png")
    listing = Listing(tmp_path / "a", ["000.png"], None, ())
    plain = image_set(listing, LoadOptions(conversion=Conversion()))
    (entry,) = [path for path in cache.iterdir() if path.is_dir()]
    meta = json.loads((entry / "meta.json").read_text())
    for name in ("asked", "conversion"):
        meta[name] = meta[name][:5]  # as it was before there was a range of bytes
    (entry / "meta.json").write_text(json.dumps(meta))
    assert torch.equal(image_set(listing, LoadOptions()).pixels, plain.pixels)
    stated = conversion_of(DataSettings(value_range=(0, 200)), "images")
    bright = image_set(listing, LoadOptions(conversion=stated))
    assert bright.pixels.unique().tolist() == [102]
    described = {"std": [1.0], "mean": [0.0], **described_conversion(bright)}
    again = conversion_of(DataSettings(), "images", Metadata("ssl", data=described))
    assert again.bytes == (0, 200)


@pytest.mark.parametrize("flag", [{"value_range": (0, 200)}, {"fit": "pad"}, {"channels": "1"}])
def test_what_cannot_act_on_images_that_are_no_files_is_refused(tmp_path, flag):
    from conftest import recipe

    from multicrop.commands._data import pretraining_images
    from multicrop.config.pretrain import Recipe as Pretraining

    if flag == {"fit": "pad"}:
        images, _ = pretraining_images(recipe(Pretraining, dataset="shapes", knn_freq=0, **flag))
        assert images.pixels.shape[2] == images.pixels.shape[3]  # they are squares already
        return
    with pytest.raises(
        ValueError, match="the images of shapes are no files that could be converted"
    ):
        pretraining_images(recipe(Pretraining, dataset="shapes", knn_freq=0, **flag))


def test_one_range_is_said_once_for_both_splits(tmp_path, capsys):
    for split in ("train", "test"):
        for name in ("a", "b"):
            save(tmp_path / split / name, counts(3, 4095), "png")
    for split in ("train", "test"):
        source("image_folder").load(tmp_path, split, LoadOptions())
    assert capsys.readouterr().err.count("0..4095 becomes black to white") == 1


def test_entries_of_other_conversions_live_side_by_side_and_the_measured_one_is_found_again(
    tmp_path, cache, monkeypatch
):
    names = save(tmp_path / "a", counts(5, 4095), "png")
    first = load_cached(tmp_path / "a", names, 64)
    pixels(tmp_path / "a", names, integers=(0.0, 100.0))
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2
    monkeypatch.setattr(
        _decode, "decode", None
    )  # as a checkpoint asks for it, and as a new run does
    for asked in (first.conversion, Conversion()):
        again = load_cached(tmp_path / "a", names, 64, "", asked)
        assert torch.equal(again.pixels, first.pixels)


def test_entries_of_older_versions_are_replaced(tmp_path, cache):
    names = save(tmp_path / "a", counts(5, 4095), "png")
    load_cached(tmp_path / "a", names, 64)
    (entry,) = [path for path in cache.iterdir() if path.is_dir()]
    meta = json.loads((entry / "meta.json").read_text())
    del meta["asked"], meta["conversion"]
    (entry / "meta.json").write_text(json.dumps(meta))
    assert len(np.unique(load_cached(tmp_path / "a", names, 64).pixels)) > 200


# Shape


def labelled_at_the_edge():
    """48 x 96: grey noise, and a bright patch at the left edge."""
    image = random().integers(100, 120, (48, 96, 3), np.uint8)
    image[10:30, :12] = 250
    return image


@pytest.mark.parametrize(("fit", "kept"), [("crop", False), ("squeeze", True), ("pad", True)])
def test_what_is_at_the_edge_is_kept_unless_cropped_and_it_is_said(tmp_path, capsys, fit, kept):
    found = pixels(tmp_path, save(tmp_path, [labelled_at_the_edge()] * 2, "png"), 32, fit=fit)
    assert found.shape == (2, 3, 32, 32)
    assert (found.max() > 200) == kept
    said = capsys.readouterr().err
    assert said.count("50% of the pixels") == 1
    assert {"crop": "leaves out", "squeeze": "squeezed", "pad": "padded"}[fit] in said


def test_a_padded_image_is_whole_in_the_middle_of_its_mean_colour(tmp_path):
    image = labelled_at_the_edge()
    found = pixels(tmp_path, save(tmp_path, [image], "png"), 96, fit="pad")[0].transpose(1, 2, 0)
    assert np.array_equal(found[24:72], image)
    mean = image.mean((0, 1)).round()
    assert (found[:24] == mean).all() and (found[72:] == mean).all()


@pytest.mark.parametrize(("width", "fit"), [(96, "squeeze"), (64, "crop"), (48, "crop")])
def test_left_open_strips_are_squeezed_and_photos_cropped(tmp_path, width, fit):
    arrays = [random(i).integers(0, 256, (48, width, 3), np.uint8) for i in range(3)]
    found = load_cached(tmp_path, save(tmp_path, arrays, "png"), 32, "", Conversion("auto"))
    assert found.conversion.fit == fit


def test_square_images_are_not_talked_about(tmp_path, capsys):
    arrays = [random(i).integers(0, 256, (8, 8, 3), np.uint8) for i in range(3)]
    pixels(tmp_path, save(tmp_path, arrays, "png"), fit="auto")
    assert [
        line for line in capsys.readouterr().err.splitlines() if line and "decoding" not in line
    ] == []


# Channels and pages


def test_a_fourth_channel_in_alpha_is_said_or_kept(tmp_path, capsys):
    arrays = [random(i).integers(0, 256, (8, 8, 4), np.uint8) for i in range(3)]
    names = save(tmp_path, arrays, "png")
    pixels(tmp_path, names)
    said = capsys.readouterr().err
    assert "3 files have transparency, which becomes white" in said and "--channels all" in said
    kept = pixels(tmp_path, names, channels=0, whole=True)
    assert np.array_equal(kept, np.stack(arrays).transpose(0, 3, 1, 2))


def test_an_opaque_alpha_channel_is_not_talked_about(tmp_path, capsys):
    array = random().integers(0, 256, (8, 8, 4), np.uint8)
    array[..., 3] = 255
    assert np.array_equal(
        pixels(tmp_path, save(tmp_path, [array], "png"))[0].transpose(1, 2, 0), array[..., :3]
    )
    assert "transparency" not in capsys.readouterr().err


@pytest.mark.parametrize("packaged", [True, False])
def test_a_fourth_band_that_no_tag_calls_alpha_is_a_band(tmp_path, capsys, monkeypatch, packaged):
    """Pillow takes it for alpha, and where it is 0 colours would become white."""
    array = random().integers(0, 256, (8, 8, 4), np.uint8)
    Image.fromarray(array).save(tmp_path / "0.tif")
    content = (tmp_path / "0.tif").read_bytes()
    tag = struct.pack("<HHI", 338, 3, 1)  # ExtraSamples
    assert content.count(tag) == 1
    unknown = struct.pack("<HHI", 339, 3, 1)  # SampleFormat 2 would be signed integers
    content = content.replace(tag + b"\2\0", unknown + b"\1\0")
    (tmp_path / "0.tif").write_bytes(content)
    monkeypatch.setattr(_tiff, "installed", lambda: packaged)
    assert np.array_equal(pixels(tmp_path, ["0.tif"])[0].transpose(1, 2, 0), array[..., :3])
    said = capsys.readouterr().err
    assert "1 file has 4 channels, red, green and blue are used; --channels all keeps" in said
    assert "transparency" not in said
    kept = pixels(tmp_path, ["0.tif"], channels=0, whole=True)
    assert np.array_equal(kept[0].transpose(1, 2, 0), array)


def test_grey_as_one_channel(tmp_path):
    arrays = [random(i).integers(0, 256, (8, 8), np.uint8) for i in range(3)]
    names = save(tmp_path, arrays, "png")
    colour = random().integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(colour).save(tmp_path / "c.png")
    found = pixels(tmp_path, [*names, "c.png"], channels=1)
    assert found.shape == (4, 1, 8, 8) and np.array_equal(found[:3, 0], np.stack(arrays))
    assert np.array_equal(found[3, 0], np.asarray(Image.fromarray(colour).convert("L")))


def test_pages_are_said_or_become_channels(tmp_path, capsys):
    stacks = [random(i).integers(0, 4096, (5, 8, 8)).astype(np.uint16) for i in range(3)]
    for i, stack in enumerate(stacks):
        first, *others = [Image.fromarray(page) for page in stack]
        first.save(tmp_path / f"{i}.tif", save_all=True, append_images=others)
    names = ["0.tif", "1.tif", "2.tif"]
    first_page = pixels(tmp_path, names)
    assert np.array_equal(first_page[:, 0], np.rint(np.stack(stacks)[:, 0] * (255 / 4095)))
    assert "3 files have 5 pages, the first is used; --channels all" in capsys.readouterr().err
    kept = pixels(tmp_path, names, channels=0, whole=True)
    assert np.array_equal(kept, np.rint(np.stack(stacks) * (255 / 4095)))


@pytest.mark.parametrize("bands", [4, 6, 8])
@pytest.mark.parametrize("type_", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_are_said_or_kept(tmp_path, capsys, bands, type_, planar):
    tifffile = pytest.importorskip("tifffile")
    top = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[type_]
    images = np.stack([random(i).random((bands, 8, 8)) * top for i in range(3)]).astype(type_)
    names = [f"{i}.tif" for i in range(3)]
    for name, image in zip(names, images, strict=True):
        data = image if planar == "separate" else image.transpose(1, 2, 0)
        tifffile.imwrite(
            tmp_path / name,
            data,
            photometric="rgb",
            planarconfig=planar,
            extrasamples=[0] * (bands - 3),
        )
    expected = np.rint(images.astype(float) * (255 / top)).astype(np.uint8)
    assert np.array_equal(pixels(tmp_path, names), expected[:, :3])
    said = capsys.readouterr().err
    assert f"3 files have {bands} channels, red, green and blue are used; --channels all" in said
    assert np.array_equal(pixels(tmp_path, names, channels=0, whole=True), expected)
    small = pixels(tmp_path, names, 4, channels=0, whole=True)
    assert small.shape == (3, bands, 4, 4)
    alone = Image.fromarray(expected[1, bands - 1]).resize((4, 4), Image.Resampling.BICUBIC)
    assert np.array_equal(small[1, -1], np.asarray(alone))


def test_without_tifffile_what_needs_it_is_left_out_with_the_command(tmp_path, capsys, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr(_decode._tiff.importlib.util, "find_spec", lambda name: None)
    colours = random().integers(0, 65536, (8, 8, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "colours.tif", colours, photometric="rgb")
    tifffile.imwrite(
        tmp_path / "bands.tif", random().random((8, 8, 7)).astype(np.float32), photometric="rgb"
    )
    names = ["bands.tif", "colours.tif"]
    assert len(pixels(tmp_path, names)) == 1
    said = capsys.readouterr().err
    assert "bands.tif (a TIFF file that Pillow does not read whole: pip install tifffile)" in said
    assert (
        "1 file has colours of 16 bits, of which the upper 8 are read; all with: pip install tifffile imagecodecs"
        in said
    )
    monkeypatch.undo()
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path / "cache"))


def test_a_compression_that_tifffile_cannot_read_leaves_the_upper_bits(
    tmp_path, capsys, monkeypatch
):
    tifffile = pytest.importorskip("tifffile")
    colours = random().integers(0, 65536, (8, 8, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")

    def read(file):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(_decode._tiff, "read", read)
    assert np.array_equal(pixels(tmp_path, ["a.tif"])[0], (colours >> 8).transpose(2, 0, 1))
    assert "of which the upper 8 are read; all with: pip install" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError])
def test_a_damaged_tiff_file_is_left_out(tmp_path, capsys, monkeypatch, error):
    tifffile = pytest.importorskip("tifffile")
    values = random().random((8, 8, 7)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    Image.fromarray(random().integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "b.png")

    def opened(file):
        raise error

    monkeypatch.setattr(tifffile, "TiffFile", opened)
    assert len(pixels(tmp_path, ["a.tif", "b.png"])) == 1
    assert "a.tif (a damaged TIFF file)" in capsys.readouterr().err


def test_a_cache_that_lacked_tifffile_is_made_again_with_it(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    for i in range(2):
        values = random(i).random((8, 8, 5 * i + 3)).astype(np.float32)
        tifffile.imwrite(tmp_path / f"{i}.tif", values, photometric="rgb")
    Image.fromarray(random().random((8, 8)).astype(np.float32)).save(tmp_path / "0.tif")
    names = ["0.tif", "1.tif"]
    with monkeypatch.context() as patch:
        patch.setattr(_decode._tiff.importlib.util, "find_spec", lambda name: None)
        assert len(pixels(tmp_path, names)) == 1
    assert len(pixels(tmp_path, names)) == 2


def test_colours_of_16_bits_in_png_are_said(tmp_path, capsys):
    import struct
    import zlib

    rows = random().integers(0, 65536, (8, 8, 3)).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert np.array_equal(pixels(tmp_path, ["a.png"])[0], (rows >> 8).transpose(2, 0, 1))
    assert "1 file has colours of 16 bits, of which the upper 8 are read" in capsys.readouterr().err


def test_a_file_of_other_channels_is_left_out_and_named(tmp_path, capsys):
    names = save(
        tmp_path, [random(i).integers(0, 256, (8, 8, 4), np.uint8) for i in range(4)], "png"
    )
    Image.fromarray(random().integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / names[1])
    assert pixels(tmp_path, names, channels=0, whole=True).shape == (3, 4, 8, 8)
    assert f"{names[1]} (3 channels, and the data set has 4)" in capsys.readouterr().err


@pytest.mark.parametrize("turn", range(1, 9))
def test_planes_are_turned_as_pillow_turns_images(turn):
    from PIL import ImageOps

    from multicrop.datasets._convert import turned

    array = random().integers(0, 256, (6, 9), np.uint8)
    image = Image.fromarray(array)
    exif = image.getexif()
    exif[_decode.ORIENTATION] = turn
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(turned(array[None], turn)[0], expected)


# What multicrop check says


def test_check_reports_bits_range_channels_and_what_a_crop_leaves_out(tmp_path, capsys):
    rng = random()
    for split, top in (("train", 4096), ("test", 2048)):
        for name in ("a", "b"):
            arrays = [rng.integers(0, top, (24, 32)).astype(np.uint16) for _ in range(3)]
            save(tmp_path / split / name, arrays, "png")
    Image.fromarray(rng.integers(0, 256, (24, 32, 4), np.uint8)).save(tmp_path / "train/a/x.png")
    found = checking.run(Check(str(tmp_path), workers=1))
    train, test = found["train"], found["test"]
    assert train["bits"] == {"16": 6, "8": 1} and train["channels"] == {"1": 6, "4": 1}
    assert train["value_range"] == test["value_range"] == {"integers": [0, 4095]}
    assert train["beyond_centre"] == pytest.approx(0.25)
    said = capsys.readouterr().err
    assert "  1 or 4 channels of 16 or 8 bits" in said
    assert (
        "which leaves out 25% of the pixels (--fit squeeze or pad, or --image_size HEIGHT WIDTH keeps them)"
        in said
    )
    assert "0..4095 becomes black to white, measured on 6 images" in said
    assert "1 file has transparency, which becomes white" in said


def test_eval_sees_images_as_the_training_did(tmp_path):
    """The stated range is the checkpoint's, whatever the range of the images that are scored."""
    for name, top in (("cat", 4000), ("dog", 3000)):
        save(tmp_path / "in" / name, counts(6, top))
        save(tmp_path / "others" / name, counts(2, top // 2))
    shared = ["--embed_dim=16", "--num_layers=1", "--num_heads=2", "--image_size=16", "--epochs=1"]
    first = launch(
        "finetune.py", "--scratch", "--dataset=image_folder", f"--datapath={tmp_path / 'in'}", *shared,
        "--batch_size=4", "--warmup=0", "--value_range", "0", "9000", f"--output_dir={tmp_path / 'ft'}",
    )  # fmt: skip
    assert result_of(first)["status"] == "finished"
    scored = launch(
        "finetune.py", "--eval", f"--pretrained_weights={tmp_path / 'ft'}", f"--datapath={tmp_path / 'others'}",
        f"--output_dir={tmp_path / 'scored'}",
    )  # fmt: skip
    assert result_of(scored)["status"] == "finished"
    assert "0..9000" in scored.stderr and "measured" not in scored.stderr


@pytest.mark.parametrize("stream", [False, True])
def test_lines_about_splits_of_one_folder_say_which(tmp_path, capsys, stream):
    """Where train and test images lie in the same folders, their lines would look alike."""
    rows = ["file,label,split"]
    for i in range(12):
        image = Image.fromarray(random(i).integers(0, 255, (16, 12, 4)).astype(np.uint8), "RGBA")
        image.save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]},{'train' if i < 7 else 'test'}")
    for i in (1, 8):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    for split in ("train", "test"):
        options = LoadOptions(source_size=8, stream=stream, workers=1)
        source("table").load(tmp_path, split, options).pixels[:]
    said = capsys.readouterr().err.splitlines()
    root = tmp_path.resolve()
    lines = [line for line in said if "transparency" in line or "skipped" in line]
    if stream:
        for split, line in zip(("train", "test"), lines, strict=True):
            assert line.startswith(f"{root} ({split}): of those streamed by now ")
    else:
        skipped = [line for line in lines if "skipped" in line]
        for (split, count), line in zip((("train", 7), ("test", 5)), skipped, strict=True):
            assert line.startswith(f"skipped 1 unreadable image of {count} in {root} ({split}): ")
        for split, count in (("train", 6), ("test", 4)):
            assert (
                sum(line.startswith(f"{root} ({split}): {count} files have") for line in lines) == 1
            )


def test_why_a_file_cannot_be_read_has_no_number_of_an_error(tmp_path):
    """Wherever it is said: one line of the decoder's."""
    form = Form((8, 8), False, Conversion())
    missing = str(tmp_path / "gone.png")
    (unreadable,) = _decode.decode_rows([missing], form).unreadable
    assert unreadable == [0, "No such file or directory"]
