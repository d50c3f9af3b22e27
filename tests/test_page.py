"""pictures/page.py and charts.py: nothing breaks out of a page, and a browser shows all of it without a network."""

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reports import CHROMIUM, Page, browse

from multicrop.commands import _report_write
from multicrop.pictures import charts, page
from multicrop.pictures.page import Chart, LeftOut, Picture, Section, Table, Tile, Tiles, Words
from multicrop.pictures.thumbnails import thumbnail

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

NAMES = (
    "</script><script>window.broken = 1</script>",
    "<img src=x onerror=window.broken=1>",
    "\"><svg onload='window.broken=1'>",
    "{{ 7 * 7 }}{% raw %}",
    "a.b[0]:c\\d 'e'",
    "fox \N{FOX FACE}, \u202e right to left, line\u2028line",
    "lat\udce9",  # as Python has a name that is not UTF-8
)
browser = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium and no google-chrome")


def png(side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 200)).save(file, "PNG")
    return file.getvalue()


VALUE = "top-1, percent [a.b]: c"  # of an axis


def every_chart() -> dict[str, dict]:
    """One of each kind, named with everything that has a meaning somewhere."""
    uri = thumbnail(torch.full((3, 8, 8), 90, dtype=torch.uint8))
    rows = [
        {"step": s, VALUE: s * 0.5, "run": name, "what": what}
        for name in NAMES
        for what in ("loss", NAMES[1])
        for s in range(9)
    ]
    counts = [{"class": n, "images": i + 1, "split": s} for i, n in enumerate(NAMES) for s in "ab"]
    shares = [{"class": n, "top": 50.0, "from": 40.0, "to": 60.0} for n in NAMES]
    pairs = [{"class": a, "taken": b, "percent": 30.0} for a in NAMES for b in NAMES]
    dots = [{"x": i, "y": i, "image": uri, "name": n, "class": n} for i, n in enumerate(NAMES)]
    marks = [{"step": 2 * i, "kind": kind, "note": NAMES[i]} for i, kind in enumerate(charts.MARKS)]
    bins = [{"from": 10.0 * i, "to": 10.0 * i + 10, "accuracy": 9.0 * i} for i in range(10)]
    return {
        "lines": charts.lines(rows, "step", VALUE, "run", marks, dash="what"),
        "bars": charts.bars(counts, "class", "images", "split"),
        "intervals": charts.intervals(shares, "class", "top", "from", "to"),
        "histogram": charts.histogram([0.1, 0.2, 0.2, 0.9], "brightness"),
        "heat": charts.heat(pairs, "taken", "class", "percent", NAMES),
        "points": charts.points(dots, "class"),
        "reliability": charts.reliability(bins),
    }


def sections() -> list[Section]:
    tiles = [Tile(thumbnail(torch.zeros(3, 8, 8, dtype=torch.uint8)), n, n) for n in NAMES]
    blocks = [Words(NAMES[0]), LeftOut(NAMES[1], NAMES[2])]
    blocks += [Table(NAMES[3], NAMES, [[*NAMES[:-1], 1.5]] * 3, folded) for folded in (False, True)]
    blocks += [Chart(name, NAMES[0], spec) for name, spec in every_chart().items()]
    blocks += [
        Picture("a", NAMES[2], png(), 300),
        Tiles(NAMES[1], [(name, tiles) for name in NAMES]),
    ]
    return [
        Section(NAMES[0], blocks),
        *(Section(f"Long {i}", [Words("word " * 3000)]) for i in range(2)),
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    _report_write.make_folder(path.parent / "files")
    _report_write.write(path, NAMES[0], sections(), path.parent / "files")
    return path


def test_names_are_text_and_nothing_else(written):
    content = written.read_text(encoding="utf-8")
    found = Page(content)
    specs = len(every_chart())
    assert (
        found.tags.count("script") == specs + 2
    )  # a spec for each chart, Vega, and the lines that draw
    assert not found.loads() and not found.handlers()
    assert "svg" not in found.tags
    for name in NAMES[:-1]:
        assert name in found.text
    assert "lat\\udce9" in found.text and "49" not in found.text.replace("a.b", "")[:200]
    for number in range(specs):
        (text,) = re.findall(rf'id="spec{number}">(.*?)</script>', content)
        assert not set("<>&\u2028") & set(text) and json.loads(text)["$schema"]


def test_a_page_is_small_and_its_charts_lie_beside_it(written):
    assert written.stat().st_size < 2e6
    for name in every_chart():
        assert (written.parent / "files" / f"{name}.svg").read_text().startswith("<svg")
        drawn = np.asarray(Image.open(written.parent / "files" / f"{name}.png").convert("L"))
        assert drawn.std() > 1


def test_what_is_no_number_is_left_out_of_a_chart():
    rows = [
        {"step": 0, "loss": float("nan")},
        {"step": 1, "loss": float("inf")},
        {"step": 2, "loss": 1.0},
    ]
    spec = charts.lines(rows, "step", "loss")
    assert "NaN" not in page.in_script(spec) and "Infinity" not in page.in_script(spec)
    values = [row["loss"] for row in next(iter(spec["datasets"].values()))] if "datasets" in spec else [
        row["loss"] for row in (spec.get("data") or spec["layer"][0]["data"])["values"]
    ]  # fmt: skip
    assert values == [None, None, 1.0]


def test_a_chart_may_have_more_rows_than_altair_likes():
    rows = [{"step": step, "loss": 1.0} for step in range(6000)]
    assert charts.lines(rows, "step", "loss")


@pytest.mark.parametrize(("classes", "tall"), [(2, 150), (43, 1000), (60, 1000)])
def test_charts_of_many_classes_stay_on_a_page(classes, tall):
    names = [f"class {number}" for number in range(classes)]
    bars = [
        {"class": name, "images": 3, "split": split}
        for name in names
        for split in ("train", "test")
    ]
    shares = [{"class": name, "top": 50.0, "from": 40.0, "to": 60.0} for name in names]
    for spec in (
        charts.bars(bars, "class", "images", "split"),
        charts.intervals(shares, "class", "top", "from", "to"),
    ):
        height = re.search(rb'height="([0-9.]+)"', charts.as_svg(spec))
        assert float(height[1]) < tall


def test_a_chart_that_cannot_be_drawn_costs_its_files_only(tmp_path, monkeypatch, capsys):
    class PanicException(BaseException):  # as a library in Rust raises it
        pass

    def broken(spec):
        raise PanicException("no fonts")

    monkeypatch.setattr(charts, "as_png", broken)
    section = Section("a", [Chart("x", "x", charts.histogram([1.0, 2.0], "n"))])
    _report_write.make_folder(tmp_path)
    _report_write.write(tmp_path / "report.html", "a", [section], tmp_path)
    assert (tmp_path / "report.html").exists() and (tmp_path / "x.svg").exists()
    assert not (tmp_path / "x.png").exists()
    assert "x.png: PanicException: no fonts; all else goes on" in capsys.readouterr().err


def test_a_missing_library_is_one_line(monkeypatch):
    for module in ("jinja2", "altair", "vl_convert"):
        with monkeypatch.context() as patch:
            patch.setattr(
                page.importlib.util, "find_spec", lambda name, m=module: name != m or None
            )
            with pytest.raises(ValueError, match=r"a report needs .*multicrop\[report\]") as error:
                page.check_installed()
            assert "\n" not in str(error.value)


@browser
def test_a_browser_draws_every_chart_without_a_network_or_an_error(written):
    dom, console = browse(written, "--dump-dom")
    assert console == []
    found = Page(dom)
    # Names are no elements and run nothing in a live document either
    assert (
        "window.broken" not in [value for _, _, value in found.attributes] and not found.handlers()
    )
    assert found.tags.count("img") == 1 + len(NAMES) ** 2
    for number in range(len(every_chart())):
        (drawn,) = re.findall(rf'id="chart{number}".*?(<svg.*?</svg>)', dom, re.DOTALL)
        assert len(re.findall(r"<path [^>]*aria-roledescription|role-mark", drawn)) > 0
        assert re.search(r'<path[^>]* d="M', drawn)


@browser
def test_a_script_from_a_name_would_be_seen(tmp_path, written):
    """No name has run; and in a page that is broken out of one does."""
    probe = "<script>setTimeout(() => { document.title = 'broken ' + window.broken }, 500)</script></body>"
    sound, broken = tmp_path / "sound.html", tmp_path / "broken.html"
    content = written.read_text(encoding="utf-8").replace("</body>", probe)
    sound.write_text(content, encoding="utf-8")
    broken.write_text(content.replace("</h1>", f"{NAMES[0]}</h1>", 1), encoding="utf-8")
    assert "<title>broken undefined" in browse(sound, "--dump-dom")[0]
    assert "<title>broken 1" in browse(broken, "--dump-dom")[0]


def corner(path: Path, *flags: str) -> tuple[int, int, np.ndarray]:
    """The background's brightness, the text's farthest from it, and the picture."""
    target = path.parent / "shot.png"
    browse(path, f"--screenshot={target}", *flags)
    pixels = np.asarray(Image.open(target).convert("L")).astype(int)
    background = int(pixels[2, 2])
    return background, int(np.abs(pixels - background).max()), pixels


@browser
def test_light_dark_and_narrow(written):
    light, contrast, _ = corner(written, "--window-size=1000,3000")
    assert light > 240 and contrast > 200
    dark, contrast, _ = corner(
        written, "--window-size=1000,3000", "--blink-settings=preferredColorScheme=0"
    )
    assert dark < 40 and contrast > 180
    # Nothing is wider than a telephone: no bar to scroll the page sideways
    script = "<script>setTimeout(() => { document.title = document.documentElement.scrollWidth }, 900)</script></body>"
    narrow = written.parent / "narrow.html"
    narrow.write_text(
        written.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8"
    )
    dom, _ = browse(narrow, "--dump-dom", "--window-size=500,900")
    (width,) = re.findall(r"<title>(\d+)</title>", dom)
    assert int(width) <= 500


@browser
@pytest.mark.skipif(sys.platform != "linux", reason="printing from a headless browser")
def test_it_is_printed_on_several_pages(written):
    target = written.parent / "page.pdf"
    browse(written, f"--print-to-pdf={target}")
    content = target.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert content.startswith(b"%PDF") and pages > 1
