"""benchmarks/backbones.py fills one file over several runs and writes its table into a page."""

import json

import pytest

from benchmarks import backbones
from benchmarks.backbones import MARKS, Recipe, measure


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    return path


def test_weights_are_counted_and_written_between_the_marks_of_a_page(tmp_path, page):
    out = tmp_path / "out.json"
    found = measure(Recipe(names=("resnet56",), seconds=0, out=str(out), docs=str(page)))
    row = found["backbones"]["resnet56"]
    assert row == {
        "features": 64, "weights": 855_120, "published_image_size": 32, "weights_at_published_size": 855_120
    }  # fmt: skip
    assert json.loads(out.read_text())["backbones"] == {"resnet56": row}
    lines = page.read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    assert "| `resnet56` | 64 | 855,120 | 855,120 (32 px) |  |  |" in lines


def test_a_second_run_measures_only_what_is_missing(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        backbones, "rate", lambda name, _: asked.append(name) or {"images_per_second": 1.0}
    )
    monkeypatch.setattr(backbones.registry, "names", lambda kind: ["resnet", "timm", "vit"])
    monkeypatch.setattr(backbones.registry, "variants", dict)
    out = str(tmp_path / "out.json")
    measure(Recipe(names=("vit",), out=out))
    measure(Recipe(out=out))
    measure(Recipe(out=out))
    assert asked == ["vit", "resnet"]
    with pytest.raises(ValueError, match="measured with other settings"):
        measure(Recipe(out=out, batch_size=3))


@pytest.mark.slow
def test_a_backbone_that_takes_too_long_or_fails_is_recorded_as_such():
    assert backbones.rate("vit", Recipe(seconds=0.1)) == {"unmeasured": "more than 0.1 s"}
    assert "fp99" in backbones.rate("vit", Recipe(seconds=300, precision="fp99"))["unmeasured"]


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no marks"):
        backbones.rewrite(page, "")
