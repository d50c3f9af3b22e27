"""What a rank lists, holds and looks at when there are many images; times and memory are benchmarks/scale.py's."""

import gc
import hashlib
import itertools
import json
import os
import pickle
import weakref
from dataclasses import replace

import pytest
import torch
from conftest import ROOT, launch

from benchmarks import scale
from multicrop.datasets import _tree
from multicrop.datasets._images import LoadOptions
from multicrop.datasets._names import Files, Names, Spans, compact
from multicrop.datasets._stream import Streamed
from multicrop.engine.fingerprint import content_hashes
from multicrop.registry import source

NAMES = ["cat/1.png", "", "dög/2.png", os.fsdecode(b"\xff.jpg"), "a" * 300]

# Names and places


def test_names_are_what_they_were():
    names = Names(iter(NAMES))
    again = pickle.loads(pickle.dumps(names))
    for each in (names, again):
        assert list(each) == NAMES and len(each) == 5 and each[-1] == NAMES[-1]
    for index in (5, -6):
        with pytest.raises(IndexError):
            names[index]
    assert list(Names([])) == []


def test_many_names_take_their_letters_and_four_bytes_each(monkeypatch):
    monkeypatch.setattr("multicrop.datasets._names.PART", 1000)
    many = [f"class{i % 7}/{i:06d}.png" for i in range(10_001)]
    names = Names(many)
    assert list(names) == many
    assert len(pickle.dumps(names)) < sum(map(len, many)) + 4 * len(many) + 1000


def test_places_are_what_they_were(tmp_path):
    assert list(Files(tmp_path, NAMES)) == [os.path.join(tmp_path, name) for name in NAMES]
    members = [["a.zip", 0, 10, 12, True, 7], ["b.zip", 2**40, 1, 1, False, 2**32 - 1]]
    assert isinstance(compact(members), Spans)
    for places in (
        members,
        [["a.tar", 1, 2], ["a.tar", 3, 4]],
        [["a", 1, 2], ["a", 1, 2, 3]],
        ["p", ["a", 1, 2]],
        [],
    ):
        assert list(pickle.loads(pickle.dumps(compact(places)))) == places  # fmt: skip


# Streamed images


@pytest.fixture
def streamed(colours):
    return source("image_folder").load(colours, "train", LoadOptions(8, stream=True, workers=1))


def test_streamed_images_are_sent_to_another_process_without_their_pixels(streamed):
    sent = pickle.dumps(streamed)
    assert len(sent) < 100 * len(streamed) + 4000
    again = pickle.loads(sent)
    assert torch.equal(again.pixels[:], streamed.pixels[:])
    assert torch.equal(again.labels, streamed.labels)
    assert (again.mean, again.std, again.classes) == (streamed.mean, streamed.std, streamed.classes)


def test_cached_images_are_sent_as_the_file_that_holds_them(colours):
    images = source("image_folder").load(colours, "train", LoadOptions(8))
    sent = pickle.dumps(images)
    assert images.in_files and len(sent) < 5000 < images.pixels.nbytes
    assert torch.equal(pickle.loads(sent).pixels, images.pixels)
    in_memory = source("shapes").load(".", "test", LoadOptions())
    assert not in_memory.in_files
    assert torch.equal(pickle.loads(pickle.dumps(in_memory)).pixels, in_memory.pixels)


def test_the_fingerprint_of_streamed_images_is_that_of_older_checkpoints(colours, streamed):
    """Also where the sizes are looked at in shares."""
    digest = hashlib.blake2b(digest_size=8)
    for name in source("image_folder").listing(colours, "train").names:
        size = (colours / "train" / name).stat().st_size
        digest.update(b"%s\0%d\n" % (os.fsencode(name), size))
    assert content_hashes(streamed) == {"files": digest.hexdigest()}
    cuts = [0, 7, 7, len(streamed)]
    shares = [streamed.pixels.file_sizes(*cut) for cut in itertools.pairwise(cuts)]
    assert streamed.pixels.stamp(torch.cat(shares)) == digest.hexdigest()


def test_pixels_that_the_cache_has_summed_are_not_summed_again(colours, monkeypatch):
    options = LoadOptions(source_size=8, stream=False)
    images = source("image_folder").load(colours, "train", options)
    assert images.checksums
    whole = content_hashes(replace(images, checksums=None))
    monkeypatch.setattr("multicrop.engine.fingerprint.zlib", None)
    assert content_hashes(images) == whole


def test_a_file_that_is_gone_has_no_size(tmp_path):
    assert Streamed([str(tmp_path / "x.png")], ["x.png"], None, 8, 1).file_sizes(0, 1).tolist() == [
        -1
    ]


@pytest.mark.parametrize(
    "index", [-2, slice(-5, None, 2), torch.tensor([-1, 3]), torch.arange(60) < 4, [1, 2]]
)
def test_streamed_images_index_like_a_tensor(streamed, index):
    whole = streamed.pixels[:]
    assert torch.equal(streamed.pixels[index], whole[index])


@pytest.mark.parametrize("index", [60, -61, torch.tensor([0, 60]), torch.tensor([-61])])
def test_there_is_no_image_beyond_the_last(streamed, index):
    with pytest.raises(IndexError):
        streamed.pixels[index]


@pytest.mark.parametrize("held_out", [False, True])
def test_the_substitute_is_the_next_of_its_class_however_many_are_looked_at(monkeypatch, held_out):
    monkeypatch.setattr("multicrop.datasets._stream.PART_OF_LABELS", 3)
    labels = torch.randint(4, (40,), generator=torch.Generator().manual_seed(0))
    names = [f"{i}.png" for i in range(40)]
    images = Streamed(names, names, labels, 8, 1)
    standing_in = torch.arange(0, 40, 3) if held_out else torch.arange(40)
    if held_out:
        images.take_substitutes_from(standing_in)
    for number in range(40):
        after = [(number + step) % 40 for step in range(1, 41)]
        fit = [i for i in after if labels[i] == labels[number] and i in standing_in]
        assert images._next(number) == fit[0]


def test_the_names_that_a_listing_has_read_are_gone_with_it(colours, monkeypatch):
    """Without waiting for the garbage collector, which rarely looks while nothing but strings is made."""
    nodes, begin = [], _tree.Node.__init__

    def remember(node, *arguments, **options):
        begin(node, *arguments, **options)
        nodes.append(weakref.ref(node))

    monkeypatch.setattr(_tree.Node, "__init__", remember)
    gc.disable()
    try:
        source("image_folder").listing(colours, "train")
        source("images").listing(colours, "train")
        assert nodes and not any(node() for node in nodes)
    finally:
        gc.enable()


# Several ranks

SCRIPT = """
import json, os, sys
sys.path[:0] = [{root!r}, {tests!r}]
from conftest import recipe
from multicrop.commands import _data
from multicrop.config.pretrain import Recipe
from multicrop.engine import ranks
from multicrop.engine.fingerprint import content_hashes
ranks.start("cpu")
listed, looked, scandir, stat = [], [], os.scandir, os.stat
def counting_scandir(folder="."):
    listed.extend([str(folder)] if str(folder).startswith({data!r}) else [])
    return scandir(folder)
def counting_stat(path, *arguments, **options):
    looked.extend([path] if str(path).endswith(".png") else [])
    return stat(path, *arguments, **options)
os.scandir = counting_scandir
def read(stream):
    listed.clear()
    images, probe = _data.pretraining_images(recipe(
        Recipe, dataset="image_folder", datapath={data!r}, stream=stream, workers=1, image_size=8))
    assert probe.train is images
    return images, ranks.gather_objects(len(listed))
cached, cached_listings = read(False)
images, listings = read(True)
os.stat = counting_stat
hashes = ranks.gather_objects(content_hashes(images))
looks = ranks.gather_objects(len(looked))
pixels = ranks.gather_objects(images.pixels[:].sum().item())
loads = ranks.gather_objects(ranks.make_on_node(lambda: os.getpid(), lambda pid: False))
if ranks.rank() == 0:
    print(json.dumps([cached_listings, listings, hashes, looks, pixels, loads]))
ranks.stop()
"""


@pytest.mark.slow
def test_one_process_of_a_node_lists_and_each_looks_at_its_share(tmp_path, colours):
    script = tmp_path / "share.py"
    places = {"root": str(ROOT), "tests": str(ROOT / "tests"), "data": str(colours)}
    script.write_text(SCRIPT.format(**places))
    done = launch(str(script), ranks=2)
    assert done.returncode == 0, done.stderr
    cached, listings, hashes, looks, pixels, loads = json.loads(done.stdout.splitlines()[-1])
    for each in (cached, listings):
        assert each[0] > 0 and each[1] == 0
    assert looks == [30, 30]
    assert hashes[0] == hashes[1] and pixels[0] == pixels[1]
    assert len(set(loads)) == 2  # what is not light to send each makes


# The program


@pytest.mark.parametrize("part", [part for part in scale.PARTS if part != "received"])
def test_each_part_is_measured(part):
    settings = scale.Recipe(images=(64,), ranks=2, classes=4, test=8, dim=4, k=2, part=part)
    measured = scale.measure(settings)
    assert measured["seconds"] >= 0 and "peak_mb" in measured


def test_the_program_measures_each_part_for_each_number_of_images(monkeypatch):
    """Without the processes."""
    asked = []
    monkeypatch.setattr(
        scale, "in_own_process", lambda r, part, images: asked.append((images, part))
    )
    found = scale.measure(scale.Recipe(images=(64, 128)))
    assert [row["images"] for row in found["rows"]] == [64, 128]
    assert asked == [(images, part) for images in (64, 128) for part in scale.PARTS]
