"""multicrop report: every kind of data set and of run, and what is left of a page where something is missing."""

import csv
import json
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import recipe, rows_of
from PIL import Image
from reports import CHROMIUM, Page, browse, read_page

import multicrop
from multicrop.commands import _live_report, _report_classifier, _report_data, finetune, pretrain
from multicrop.commands import report as command
from multicrop.commands._live_report import LiveReport
from multicrop.commands._report_curves import checkpoints, findings
from multicrop.commands._report_folder import RunFolder
from multicrop.commands._report_images import SplitImages
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.config.report import Page as PageSettings
from multicrop.config.report import Recipe
from multicrop.engine.rows import line_of
from multicrop.engine.run import Run
from multicrop.pictures import charts
from multicrop.pictures.page import Chart, LeftOut, Tiles

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

NETWORK = {"image_size": 16, "embed_dim": 16, "num_layers": 1, "num_heads": 2, "patch_size": 4}
SSL = {
    **NETWORK, "device": "cpu", "out_dim": 16, "local_crops_number": 1, "batch_size_per_gpu": 8, "epochs": 4,
    "knn_freq": 1, "log_freq": 1, "saveckp_freq": 2,
}  # fmt: skip
TUNING = {
    "device": "cpu",
    "batch_size": 8,
    "ra": 1,
    "epochs": 2,
    "log_freq": 1,
    "head_init": "random",
}
CLASSES = (
    "<img src=x onerror=window.broken=1>",
    "\"quoted\" & 'more' {{ 7 * 7 }}",
    "fox \N{FOX FACE}",
)
LATIN = os.fsdecode(b"lat\xe9 <b>.png")
DOUBTS = {"suspect labels"}  # not judged where features do not tell the classes apart
SECTIONS = ("The run", "What the network has learned", "The classifier", "The images")


def image(path: Path, seed: int, channel: int = 0, size=(16, 16), mode="RGB") -> None:
    pixels = np.random.default_rng(seed).integers(0, 120, (*size, 3), dtype=np.uint8)
    pixels[:, :, channel % 3] += 100
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def folders(root: Path, classes=("a", "b"), train=6, test=3, **how) -> Path:
    for label, name in enumerate(classes):
        for split, count in (("train", train), ("test", test)):
            for number in range(count):
                place = root / split / name / f"{number}.png"
                image(place, 1000 * label + 10 * number + len(split), label, **how)
    return root


def report(*paths: Path, to: Path | None = None, **flags) -> tuple[Page, dict]:
    """The page and the command's result."""
    where = {"output": str(to / "report.html")} if to else {}
    words = {"device": "cpu", "map_images": 40, **where, **flags}
    result = command.run(recipe(Recipe, paths=tuple(map(str, paths)), **words))
    page = read_page(Path(result["page"]))
    assert not page.loads() and not page.handlers()
    assert Path(result["page"]).stat().st_size == result["bytes"] < 5e6
    return page, result


def sections_of(page: Page) -> list[str]:
    return [title for title in SECTIONS if f"\n{title}\n" in page.text.split("\n\n", 3)[-1]]


def put_together(folder: Path) -> list[tuple[str, bytes, int]]:
    return [
        (str(p), p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    ]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTICROP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Class folders with names that want out of the page, and files whose names are not UTF-8."""
    root = folders(tmp_path_factory.mktemp("photos"), CLASSES, train=8, test=4)
    if sys.platform == "linux":
        for split in ("train", "test"):
            (root / split / CLASSES[0] / "0.png").rename(root / split / CLASSES[0] / LATIN)
    return root


@pytest.fixture(scope="module")
def ssl_run(photos, tmp_path_factory) -> Path:
    """Stage one, stopped after step 4 and resumed, with --report."""
    folder = tmp_path_factory.mktemp("runs") / "ssl"
    for stop in (4, 9):
        flags = {**SSL, "dataset": "image_folder", "datapath": str(photos), "max_steps": stop}
        pretrain.run(recipe(Pretraining, **flags, output_dir=str(folder), report=True))
    return folder


@pytest.fixture(scope="module")
def tuned_run(ssl_run, photos, tmp_path_factory) -> Path:
    folder = ssl_run.parent / "tuned"
    flags = {**TUNING, "pretrained_weights": str(ssl_run), "output_dir": str(folder)}
    finetune.run(recipe(Finetuning, **flags))
    # As the other two commands write them
    kinds = {"fog": [30.0, 40.5], "snow <b>": [20.0, 60.0]}
    robust = {
        "clean": {"error": 10.0}, "mean_corruption_error": 37.6, "severities": [1, 3],
        "corruptions": {name: {"error": errors} for name, errors in kinds.items()},
    }  # fmt: skip
    (folder / "robustness.json").write_text(json.dumps(robust))
    points = [
        {"percent": p, "labels": p, "draws": 1, "top1": 30.0 + p, "top1_std": 0.0}
        for p in (10.0, 50.0)
    ]
    curves = [{"network": "pretrained", "method": "finetune", "points": points}]
    (folder / "labels").mkdir()
    (folder / "labels" / "labels.json").write_text(json.dumps({"curves": curves}))
    return folder


@pytest.fixture(scope="module")
def tuned_page(tuned_run, tmp_path_factory) -> tuple[Page, dict]:
    return report(tuned_run, to=tmp_path_factory.mktemp("tuned_page"))


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """The charts' own files, a third of a page's time, are drawn for one page only, and in test_page.py."""
    if "tuned_page" not in request.fixturenames:
        monkeypatch.setattr(charts, "as_svg", lambda spec: b"")
        monkeypatch.setattr(charts, "as_png", lambda spec: b"")


# A whole page


def test_a_run_of_stage_two_has_every_section(tuned_page):
    page, result = tuned_page
    assert set(result["left_out"]) <= DOUBTS and result["status"] == "finished"
    assert sections_of(page) == list(SECTIONS)
    for text in (
        "Accuracy of each class with its 95 % interval",
        "Which class is taken for which",
        "expected calibration error",
        "Error under corruptions (robustness.json): 10.00 % without, 37.60 % on average",
        "Accuracy by the share of labels",
        "Attention of the last layer that has one, and the main directions",
        "by the trained network and by its random weights",
        "images by their features (t-SNE)",
        "feature rank: trained",
        "Settings that differ from their defaults",
        "The whole recipe, ",
        "training time",
        "energy",
        "Near-duplicates",
        "Outliers",
    ):
        assert text in page.text, text
    files = {path.name for path in Path(result["files"]).iterdir()}
    tables = {"near_duplicates.csv", "outliers.csv", "places.png"}
    charts = {
        f"{name}.{end}"
        for name in ("map", "confusion", "per_class", "labels")
        for end in ("svg", "png")
    }
    assert tables | charts <= files


def test_names_are_text(tuned_page):
    page, result = tuned_page
    for name in CLASSES:
        assert name in page.text
    assert all(value != "x" for tag, attribute, value in page.attributes if attribute == "src")
    assert "script" not in page.text.casefold().replace("description", "")
    if sys.platform == "linux":
        titles = [value for _, attribute, value in page.attributes if attribute == "title"]
        assert any("lat\\udce9 <b>.png" in title for title in titles)
        content = (Path(result["files"]) / "outliers.csv").read_bytes()
        assert csv.reader(content.decode("utf-8", "surrogateescape").splitlines())


@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium and no google-chrome")
def test_a_browser_shows_the_page_of_a_run(tuned_page):
    _, result = tuned_page
    dom, console = browse(Path(result["page"]), "--dump-dom")
    assert console == [] and dom.count("<svg") >= 8
    assert "window.broken" not in [value for _, _, value in Page(dom).attributes]


def test_a_run_of_stage_one_marks_what_happened(ssl_run, tmp_path):
    before = put_together(ssl_run)
    page, result = report(ssl_run, to=tmp_path)
    assert put_together(ssl_run) == before  # with --output a run folder is only read
    assert set(result["left_out"]) <= DOUBTS
    assert sections_of(page) == [title for title in SECTIONS if title != "The classifier"]
    assert "Crops of a step as the networks see them" in page.text
    assert "1 times, last after step 4" in page.text
    run = RunFolder.read(ssl_run)
    found = checkpoints(ssl_run, run.rows)
    assert found["checkpoint.pt"] == 9 and found["checkpoint0002.pt"] == 6
    charts = specs_of(result)
    notes = {
        (row["kind"], row["step"]) for row in rows_in(charts["curve_1"]) if "kind" in row
    }  # fmt: skip
    assert {("resumed", 4), ("checkpoint", 9), ("checkpoint", 6)} <= notes


def specs_of(result: dict) -> dict[str, str]:
    """The charts' files beside the page are drawn from the same specs, which stand in the page by number."""
    content = Path(result["page"]).read_text(encoding="utf-8")
    parts = content.split('<script type="application/json"')[1:]
    specs = [json.loads(part.partition(">")[2].partition("</script>")[0]) for part in parts]
    names = ["curve_1"] if len(specs) == 1 else [f"curve_{i + 1}" for i in range(len(specs))]
    return dict(zip(names, specs, strict=True))


def rows_in(spec: dict) -> list[dict]:
    """The rows of all layers of a chart."""
    found = list(spec.get("data", {}).get("values", []))
    for values in spec.get("datasets", {}).values():
        found += values
    for layer in spec.get("layer", []):
        found += rows_in(layer)
    return found


def test_what_the_monitor_says_stands_at_its_step(ssl_run, tmp_path):
    """A run whose features lose their directions: the sentence in words, and a line along the loss."""
    run = shutil.copytree(ssl_run, tmp_path / "run")
    rows = [
        {
            "step": step, "time": float(step), "epoch": step / 2, "loss": 2.5, "feature_rank": 9.0 if step < 8 else 1.0,
            "target_gap": 0.5, "target_entropy": 1.5, "mean_entropy": 2.0,
        }
        for step in range(1, 21)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(f"{line_of(row)}\n" for row in rows))
    recipe_lines = (run / "recipe.yaml").read_text().splitlines()
    kept = [line for line in recipe_lines if not line.startswith("warmup_")]
    (run / "recipe.yaml").write_text(
        "\n".join([*kept, "warmup_teacher_temp_epochs: 0", "warmup_epochs: 0"])
    )
    found = findings(RunFolder.read(run))
    assert found and found[0][0]["step"] == 8 and found[0][1].startswith("Feature rank near 1")
    page, result = report(run, to=tmp_path / "page", parts=("run",))
    assert found[0][1] in page.text and "red lines: what the collapse monitor says" in page.text
    assert ("warning", 8) in {
        (row["kind"], row["step"]) for row in rows_in(specs_of(result)["curve_1"]) if "kind" in row
    }


def test_several_runs_lie_over_each_other(ssl_run, tuned_run, tmp_path):
    other = shutil.copytree(ssl_run, tmp_path / "other <i>")
    (other / "recipe.yaml").write_text(
        (other / "recipe.yaml").read_text().replace("epochs: 4", "epochs: 5", 1)
    )
    page, result = report(ssl_run, other, tuned_run, to=tmp_path / "page")
    assert result["left_out"] == [] and "Settings in which the runs differ" in page.text
    loss = rows_in(specs_of(result)["curve_1"])
    assert {row["run"] for row in loss} == {"ssl", "other <i>", "tuned"}
    with pytest.raises(ValueError, match="no folder of a run: several paths are several runs"):
        report(ssl_run, tmp_path / "page")


def test_of_many_long_runs_a_chart_has_some_points(tmp_path):
    rows = [{"step": step, "time": 1.0 * step, "loss": 1.0, "lr": 0.1} for step in range(1, 2001)]
    for number in range(12):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(f"{line_of(row)}\n" for row in rows))
    _, result = report(*(tmp_path / f"run{number}" for number in range(12)), to=tmp_path)
    assert result["bytes"] < 2.5e6


# Runs that were interrupted, and folders that are damaged


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def only(run: Path, *names: str) -> None:
    for path in run.iterdir():
        if path.name not in names:
            path.unlink() if path.is_file() else shutil.rmtree(path)


STATES = {
    "only recipe.yaml": (lambda run: only(run, "recipe.yaml"), "There are no curves yet"),
    "only metrics.jsonl": (lambda run: only(run, "metrics.jsonl"), "The folder has no recipe"),
    "only a checkpoint": (lambda run: only(run, "checkpoint.pt"), "There are no curves yet"),
    "both checkpoints cut": (
        lambda run: [cut(path) for path in run.glob("checkpoint*.pt")], "no readable checkpoint among",
    ),
    "the newest checkpoint cut": (lambda run: cut(run / "checkpoint.pt"), "What the network has learned"),
    "recipe.yaml cut": (lambda run: (run / "recipe.yaml").write_text("a: [1, {"), "recipe.yaml"),
    "recipe.yaml of no flags": (lambda run: (run / "recipe.yaml").write_text("- 1"), "holds no flags"),
    "recipe.yaml not UTF-8": (lambda run: (run / "recipe.yaml").write_bytes(b"a: \xff"), "recipe.yaml"),
    "recipe.yaml of another version": (
        lambda run: (run / "recipe.yaml").write_text("out_dim: 16\nlr: [fast]\nnew: 1\n"), "The whole recipe",
    ),
    "starts.jsonl damaged": (lambda run: (run / "starts.jsonl").write_bytes(b"\xff{}\n[1]\n"), "The run"),
    "a row damaged": (
        lambda run: (run / "metrics.jsonl").write_text(
            (run / "metrics.jsonl").read_text().replace('"step": 3', '"step": 5', 1)
        ),
        "is damaged in line",
    ),
    "metrics.jsonl torn": (lambda run: cut(run / "metrics.jsonl"), "The run"),
    "metrics.jsonl without an end": (lambda run: (run / "metrics.jsonl").write_text(""), "There are no curves yet"),
    "metrics.jsonl not UTF-8": (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\n{\xfe}\n"), "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_a_run_interrupted_or_damaged_has_a_page_still(ssl_run, tmp_path, state):
    run = shutil.copytree(ssl_run, tmp_path / "run")
    break_it, words = STATES[state]
    break_it(run)
    before = put_together(run)
    parts = ("run", "learned") if "checkpoint" in state else ("run",)
    page, result = report(run, to=tmp_path / "page", images=20, parts=parts)
    assert words in page.text and "The run" in page.text
    assert put_together(run) == before and Path(result["page"]).exists()


def test_without_its_images_a_run_shows_what_is_left(ssl_run, tmp_path):
    page, result = report(ssl_run, to=tmp_path, datapath=str(tmp_path / "gone"))
    assert sections_of(page) == ["The run", "The images"]
    assert [what for what in result["left_out"] if "images" in what]
    assert "gone" in page.text


def test_a_run_that_has_just_begun_shows_its_images(ssl_run, tmp_path):
    run = shutil.copytree(ssl_run, tmp_path / "run")
    only(run, "recipe.yaml")
    page, result = report(run, to=tmp_path / "page")
    assert set(result["left_out"]) - DOUBTS == {"the network"} and "The images" in sections_of(page)


def test_a_section_that_fails_is_a_line(ssl_run, tmp_path, monkeypatch, capsys):
    class PanicException(BaseException):
        pass

    def broken(*_words):
        raise PanicException("no memory <b>")

    monkeypatch.setattr(f"{_report_data.__name__}.brightness", broken)
    page, result = report(ssl_run, to=tmp_path, parts=("data",))
    assert result["left_out"] == ["brightness"]
    assert "Left out: brightness. PanicException: no memory <b>" in page.text
    monkeypatch.setattr(
        f"{_report_data.__name__}.brightness", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        report(ssl_run, to=tmp_path, parts=("data",))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_read_only_run_folder_is_one_line_without_output(ssl_run, tmp_path):
    run = shutil.copytree(ssl_run, tmp_path / "run")
    run.chmod(0o500)
    try:
        with pytest.raises(OSError, match="report_files"):
            report(run)
        report(run, to=tmp_path / "page", parts=("run",))
    finally:
        run.chmod(0o700)


def test_a_place_that_cannot_be_written_is_one_line(ssl_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as error:
        report(ssl_run, to=tmp_path / "file", parts=("run",))
    assert "\n" not in str(error.value)


# Data sets


def zipped(root: Path) -> Path:
    folders(root / "set")
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        for path in sorted((root / "set").rglob("*.png")):
            archive.write(path, path.relative_to(root / "set"))
    return root / "photos.zip"


def table(root: Path) -> Path:
    names = ("</td><script>window.broken=1</script>", 'b,"c"\nd')
    with open(root / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "split"])
        for number in range(16):
            image(root / f"{number}.png", number)
            writer.writerow(
                [f"{number}.png", names[number % 2], "test" if number > 11 else "train"]
            )
    return root / "labels.csv"


def unlabelled(root: Path) -> Path:
    for number in range(9):
        image(root / f"{number}.png", number)
    return root


def bands(root: Path) -> Path:
    """Five bands, as pages."""
    for split in ("train", "test"):
        for name in ("dry", "wet"):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                random = np.random.default_rng([number, *name.encode(), *split.encode()])
                pages = [
                    Image.fromarray(random.integers(0, 255, (16, 16), dtype=np.uint8))
                    for _ in range(5)
                ]
                pages[0].save(
                    root / split / name / f"{number}.tif", save_all=True, append_images=pages[1:]
                )
    return root


SETS = {
    "grey": (lambda root: folders(root, mode="L"), {}),
    "one channel": (lambda root: folders(root, mode="L"), {"channels": "1"}),
    "five bands": (bands, {"channels": "all"}),
    "unlabelled": (unlabelled, {}),
    "two images a class": (lambda root: folders(root, tuple("abcdefgh"), train=2, test=1), {}),
    "one image": (lambda root: folders(root, ("a",), train=1, test=1), {}),
    "rectangles": (lambda root: folders(root, size=(12, 30)), {}),
    "one pixel": (lambda root: folders(root, size=(1, 1)), {}),
    "an archive": (zipped, {}),
    "a table": (table, {}),
    "some unreadable": (lambda root: [cut(folders(root) / "train" / "a" / "0.png"), root][1], {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", SETS)
def test_every_kind_of_data_set_has_a_page(tmp_path, kind):
    make, flags = SETS[kind]
    (tmp_path / "data").mkdir()
    path = make(tmp_path / "data")
    page, result = report(path, to=tmp_path / "page", **flags)
    assert sections_of(page) == ["The images"] and not page.handlers()
    # What asks for more images than there are is said, and nothing else is left out
    left_out = set(result["left_out"]) - DOUBTS - {"test images"}
    assert not left_out or kind in ("one image", "one pixel"), left_out
    tables = {path.name for path in Path(result["files"]).glob("*.csv")}
    assert "near_duplicates.csv" in tables


def test_a_folder_without_images_is_one_line(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("")
    with pytest.raises((ValueError, FileNotFoundError), match="data") as error:
        report(tmp_path / "data", to=tmp_path / "page")
    assert "\n" not in str(error.value)
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        report(tmp_path / "nowhere", to=tmp_path / "page")


RUNS = {
    "shapes": (lambda root: root, {"dataset": "shapes", "max_steps": 1}),
    "five bands": (bands, {"channels": "all"}),
    "unlabelled": (unlabelled, {"dataset": "images", "knn_freq": 0}),
    "rectangles": (lambda root: folders(root, size=(16, 32)), {"image_size": (16, 32)}),
    "streamed": (folders, {"stream": True, "workers": 1}),
    "joint": (folders, {"label_weight": 1.0}),
}  # fmt: skip


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_of_every_kind_has_a_page(tmp_path, kind):
    make, own = RUNS[kind]
    (tmp_path / "data").mkdir()
    path = make(tmp_path / "data")
    flags = {
        **SSL,
        "dataset": "image_folder",
        "datapath": str(path),
        "batch_size_per_gpu": 4,
        "max_steps": 2,
        **own,
    }
    run = tmp_path / "run"
    pretrain.run(recipe(Pretraining, **flags, output_dir=str(run)))
    page, result = report(run, images=60, workers=1)
    assert Path(result["page"]) == run / "report.html"
    assert {"The run", "What the network has learned", "The images"} <= set(sections_of(page))
    assert set(result["left_out"]) <= DOUBTS


def test_a_guided_run_of_stage_two_has_a_page(tuned_run, photos, tmp_path):
    flags = {
        **TUNING,
        **NETWORK,
        "scratch": True,
        "dataset": "image_folder",
        "datapath": str(photos),
        "epochs": 1,
    }
    run = tmp_path / "run"
    finetune.run(
        recipe(
            Finetuning, **flags, output_dir=str(run), distillation="soft", teacher=str(tuned_run)
        )
    )
    page, result = report(run, images=40)
    assert set(result["left_out"]) <= DOUBTS and sections_of(page) == list(SECTIONS)


def test_ten_thousand_classes_are_summed_up():
    """Of the classifier and of the images, at the level of sections; a matrix of them would be 800 MB."""
    count, images = 10_000, 1500
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(count, (images,), generator=random)
    logits = torch.randn(images, count, generator=random)
    logits[torch.arange(images), labels] += 4
    split = SplitImages(
        "test", torch.randint(255, (images, 3, 4, 4), dtype=torch.uint8, generator=random), labels,
        tuple(f"class {i}" for i in range(count)), [f"{i}.png" for i in range(images)], images,
    )  # fmt: skip
    begun = time.process_time()
    blocks = [
        *_report_classifier.per_class(logits, split), *_report_classifier.confusions(logits, split),
        *_report_classifier.reliability(logits, split, False), *_report_classifier.mistakes(logits, split),
        *_report_data.balance([split]), *_report_data.contact_sheet([split]),
    ]  # fmt: skip
    assert time.process_time() - begun < 20
    assert not [block for block in blocks if isinstance(block, LeftOut)]
    captions = [block.caption for block in blocks if isinstance(block, Chart | Tiles)]
    assert any("60 of " in caption for caption in captions) and any(
        "9,976 more" in c for c in captions
    )


def test_accuracies_and_confusions_are_counted():
    labels = torch.tensor([0] * 8 + [1] * 4)
    predicted = torch.tensor([0] * 6 + [1] * 2 + [1] * 4)
    logits = torch.nn.functional.one_hot(predicted, 3).float()
    split = SplitImages(
        "test", torch.zeros(12, 3, 4, 4).byte(), labels, ("a", "b", "none"), ["x"] * 12, 12
    )
    (chart,) = _report_classifier.per_class(logits, split)
    rows = {row["class"]: row for row in rows_in(chart.spec)}
    assert set(rows) == {"a", "b"} and rows["a"]["accuracy, percent"] == 75
    # Wilson's interval of 6 of 8, by its formula
    z, p, n = 1.959964, 0.75, 8
    centre, half = (p + z * z / 2 / n), z * (p * (1 - p) / n + z * z / 4 / n / n) ** 0.5
    assert rows["a"]["from"] == pytest.approx(100 * (centre - half) / (1 + z * z / n), abs=0.01)
    assert rows["a"]["to"] == pytest.approx(100 * (centre + half) / (1 + z * z / n), abs=0.01)
    heat, pairs = _report_classifier.confusions(logits, split)
    assert pairs.rows == [["a", "b", 2, 8]]
    assert {(r["class"], r["taken for"], r["images"]) for r in rows_in(heat.spec)} == {
        ("a", "a", 6), ("a", "b", 2), ("b", "b", 4),
    }  # fmt: skip


# While a run goes on


def test_watching_a_run_rewrites_its_page_until_it_ends(ssl_run, tmp_path, monkeypatch):
    """The run logs a row between two looks, then its lock is gone."""
    run = shutil.copytree(ssl_run, tmp_path / "run")
    looks, pages = iter((True, True, False)), []

    def sleep(_seconds):
        pages.append((tmp_path / "page" / "report.html").read_text())
        row = {**rows_of(run)[-1], "step": 10 + len(pages), "loss": 1.25}
        with open(run / "metrics.jsonl", "a") as file:
            file.write(f"{line_of(row)}\n")

    monkeypatch.setattr(command.lock, "is_held", lambda folder: next(looks))
    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=sleep))
    page, _ = report(run, to=tmp_path / "page", watch=True, every=1.0, parts=("run",))
    assert len(pages) == 2 and pages[0] != pages[1]
    assert all('http-equiv="refresh" content="1"' in content for content in pages)
    assert "refresh" not in [value for _, _, value in page.attributes]
    assert "run, going on" in Page(pages[0]).text


def test_watching_what_is_no_run_is_one_line(photos, ssl_run, tmp_path):
    with pytest.raises(ValueError, match=r"--watch: .* is no folder of a run"):
        report(photos, to=tmp_path, watch=True)
    with pytest.raises(ValueError, match="is for one run"):
        report(ssl_run, ssl_run, to=tmp_path, watch=True)


def test_a_run_with_report_ends_with_a_page(ssl_run, photos, tmp_path):
    page = read_page(ssl_run / "report.html")
    assert sections_of(page) == ["The run"] and "refresh" not in [
        value for _, _, value in page.attributes
    ]
    flags = {
        **TUNING,
        "pretrained_weights": str(ssl_run),
        "epochs": 1,
        "output_dir": str(tmp_path / "run"),
    }
    finetune.run(recipe(Finetuning, **flags, report=True))
    assert sections_of(read_page(tmp_path / "run" / "report.html")) == ["The run"]


def live(folder: Path, monkeypatch, cost: float) -> tuple[LiveReport, SimpleNamespace, list[float]]:
    """A live page with a clock of its own, each version of which costs so many seconds; and when they were written."""
    clock, written = SimpleNamespace(now=0.0), []

    def write(*_words):
        written.append(clock.now)
        clock.now += cost

    monkeypatch.setattr(_live_report, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(f"{_live_report.__name__}._report_write.write", write)
    run = Run(folder, {"log": ()})
    page = LiveReport(True, run)
    run.close()
    return page, clock, written


@pytest.mark.parametrize("cost", [0.05, 2.0, 30.0])
def test_a_live_page_costs_at_most_a_hundredth_of_the_run(tmp_path, monkeypatch, cost):
    page, clock, written = live(tmp_path / "run", monkeypatch, cost)
    for _ in range(20_000):
        clock.now += 1.0
        page.update()
        if len(written) > 1:  # the first cost is a guess
            assert len(written) * cost <= 0.01 * clock.now
    assert (
        written and len(written) * cost > 0.004 * clock.now
    )  # and it is rewritten as often as that allows
    page.finish()
    assert written[-1] == clock.now - cost


def test_a_live_page_that_fails_ends_nothing(tmp_path, monkeypatch, capsys):
    class PanicException(BaseException):
        pass

    page, clock, _ = live(tmp_path / "run", monkeypatch, 1.0)
    for error in (
        MemoryError("none left"),
        PanicException("V8"),
        OSError(28, "No space left on device"),
    ):

        def broken(*_words, error=error):
            raise error

        monkeypatch.setattr(f"{_live_report.__name__}._report_write.write", broken)
        clock.now += 1e6
        page.update()
        page.finish()
    assert capsys.readouterr().err.count("all else goes on") == 6


def test_only_the_first_process_writes_a_live_page(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", {"log": ()})
    run.writes = False
    page = LiveReport(True, run)
    monkeypatch.setattr(page, "_write", lambda *_: pytest.fail("written"))
    page.update()
    page.finish()


@pytest.mark.parametrize("stage", [pretrain, finetune])
def test_a_missing_library_is_said_before_a_run_writes_anything(stage, tmp_path, monkeypatch):
    from multicrop.pictures import page

    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    settings = {
        "dataset": "shapes",
        "device": "cpu",
        "report": True,
        "output_dir": str(tmp_path / "run"),
    }
    values = {**settings, **({"scratch": True} if stage is finetune else {})}
    with pytest.raises(ValueError, match=r"multicrop\[report\]"):
        stage.run(recipe(Finetuning if stage is finetune else Pretraining, **values))
    assert not (tmp_path / "run").exists()


def test_from_python(photos, tmp_path):
    result = multicrop.report(
        photos, output=tmp_path / "a.html", parts=("data",), images=10, device="cpu"
    )
    assert Path(result["page"]) == tmp_path / "a.html" and (tmp_path / "a_files").is_dir()


def test_the_sizes_of_the_files_are_told_apart_from_those_that_are_looked_at():
    files = {"height": [25, 36, 100], "width": [64, 64, 64]}
    assert _report_data.sizes(files) == "25 / 36 / 100 x 64"
    assert _report_data.sizes({}) == ""


def test_a_page_of_nothing_replaces_none(tmp_path):
    """Of a data set there is no part about a run."""
    for number in range(4):
        image = Image.fromarray(np.full((8, 8, 3), 60 * number, np.uint8))
        (tmp_path / "photos" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "photos" / f"class{number % 2}" / f"{number}.png")
    page = tmp_path / "page.html"
    page.write_text("a good one")
    words = Recipe((str(tmp_path / "photos"),), PageSettings(output=str(page), parts=("run",)))
    with pytest.raises(ValueError, match=r"--parts run: there is none of them for .*photos"):
        command.run(words)
    assert page.read_text() == "a good one"
