"""Where the tests find recorded numbers, and how they run the three scripts."""

import functools
import gc
import json
import os
import signal
import subprocess
import tempfile
from dataclasses import fields
from pathlib import Path

import forks
import numpy as np
import pytest
import torch
from faults.pairs import Pair
from PIL import Image

from multicrop.config.flags import flag_types, from_flags
from multicrop.datasets import shapes
from multicrop.engine import checkpoint
from multicrop.engine.metadata import Checkpoint, Metadata

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
FORKS = forks.Server()

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # in a background job it is ignored, for our children too
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, for our children too
gc.disable()  # until all is imported and collected: there is next to no garbage before
torch.set_num_threads(1)  # the tests' tensors are tiny, and other tests may run beside


@pytest.fixture
def golden() -> Path:
    """The fixtures recorded from the published two-stage code."""
    return GOLDEN / "two_stage_ssl"


@pytest.fixture(scope="session")
def shared_golden() -> Path:
    """The full set of recorded numbers, where it lies beside the repository; the tests that need it skip elsewhere."""
    folder = ROOT.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("the full set of recorded numbers is not beside the repository")
    return folder


@pytest.fixture(scope="session", params=["committed", "full"])
def recordings(request) -> Path:
    """The folder of all recorded numbers, twice: the one here, some of its files trimmed, and the full set."""
    return GOLDEN if request.param == "committed" else request.getfixturevalue("shared_golden")


def launch(
    script: str,
    *flags,
    ranks: int = 1,
    timeout: float = 300,
    outputs: dict[str, str] | None = None,
    **environment,
) -> subprocess.CompletedProcess:
    """Run a root script, or a command by its name, as a user would, on the CPU; .stdout ends with its JSON line.

    A process of its own, but for its imports: see forks.py, also for what `outputs` are.
    """
    program = [str(ROOT / script)] if script.endswith(".py") else ["-m", "multicrop", script]
    words = [*program, *map(str, flags), "--device", "cpu"]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    with tempfile.TemporaryDirectory() as folder:
        return FORKS.run(words, env, Path(folder), ranks, timeout, outputs or {})


def result_of(process: subprocess.CompletedProcess) -> dict:
    """The JSON object on the last line of a script's standard output."""
    assert process.returncode in (0, 75), process.stderr
    return json.loads(process.stdout.strip().splitlines()[-1])


def recipe(recipe_type, **values):
    """A recipe with these settings by the names of their flags, as a command line would give them."""
    unknown = set(values) - set(flag_types(recipe_type))
    assert not unknown, f"no flags of {recipe_type.__module__}: {unknown}"
    return from_flags(recipe_type, values)


def same(a, b) -> None:
    """Equal to the last bit: dictionaries, lists, tensors and plain values."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def rows_of(folder: Path) -> list[dict]:
    """The rows of a run folder's metrics, without their checksums."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "crc"} for row in rows]


def content_of(path: Path) -> dict:
    """One of our checkpoints as one dictionary: what its metadata says, and its states by name."""
    stored = checkpoint.load(path)
    return {**stored.metadata.to_dict(), **stored.state}


def save_content(content: dict, path: Path) -> None:
    """Such a dictionary as a checkpoint."""
    names = [field.name for field in fields(Metadata)]
    state = {name: value for name, value in content.items() if name not in names}
    checkpoint.save(Checkpoint(Metadata.from_dict(content), state), path)


def pytest_collection_finish() -> None:
    """What was imported and collected stays; garbage is looked for among what the tests make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def forks_end():
    """With the tests, whatever is left of them."""
    yield
    FORKS.stop()


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Two ranks at a time, of which one may be lost."""
    pair = Pair(tmp_path_factory.mktemp("pair") / "errors")
    yield pair
    pair.close()


@pytest.fixture(autouse=True)
def image_cache(tmp_path_factory, monkeypatch):
    """Decoded images are kept for the whole session, and never in the user's own cache."""
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


DRAWN: dict[tuple, tuple] = {}


@pytest.fixture(autouse=True)
def drawn_shapes(monkeypatch):
    """The embedded data set, which takes seconds to draw, is drawn once for the whole session."""
    draw = shapes._draw

    def once(stream, *arguments):
        key = (str(stream.bit_generator.state), *arguments)
        if key not in DRAWN:
            DRAWN[key] = draw(stream, *arguments)
        return DRAWN[key]

    monkeypatch.setattr(shapes, "_draw", once)


@pytest.fixture(scope="session")
def onnx_functions():
    """PyTorch parses the source of all it can say in ONNX for each network, a third of a small one's export: once."""
    exporter = pytest.importorskip("torch.onnx._internal.exporter._registration")
    with pytest.MonkeyPatch.context() as patch:
        whole = functools.cache(exporter.ONNXRegistry.from_torchlib)
        patch.setattr(exporter.ONNXRegistry, "from_torchlib", staticmethod(whole))
        yield


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> Path:
    """Noisy 16 px images of three colours: 20 + 8 of each, as class folders."""
    root, random = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for channel, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 120, (16, 16, 3), dtype=np.uint8)
                pixels[:, :, channel] += 100
                Image.fromarray(pixels).save(root / split / name / f"{i:02d}.png")
    return root
