"""pictures/figures.py: the files exist, have content where it belongs, and matplotlib's global state is untouched."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multicrop.pictures.figures import draw_attention, draw_crops, draw_curves


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_crops_are_drawn_to_scale_and_in_their_colours(tmp_path):
    red = torch.tensor([1.0, 0, 0]).view(3, 1, 1)
    blue = torch.tensor([0, 0, 255], dtype=torch.uint8).view(3, 1, 1)
    global_crops, local_crops = red.expand(1, 2, 3, 16, 16), blue.expand(1, 2, 3, 8, 8)
    draw_crops(global_crops, local_crops, tmp_path / "new" / "crops.png")
    found = pixels(tmp_path / "new" / "crops.png")
    is_red, is_blue = (found == [255, 0, 0]).all(-1).sum(), (found == [0, 0, 255]).all(-1).sum()
    assert is_red > 1000
    assert 3.2 < is_red / is_blue < 4.8  # half the side, a quarter of the area


def test_crops_with_source_images_and_one_channel(tmp_path):
    draw_crops(
        torch.rand(2, 3, 1, 8, 8),
        torch.rand(4, 3, 1, 4, 4),
        tmp_path / "x.png",
        torch.rand(3, 1, 10, 10),
    )
    assert pixels(tmp_path / "x.png").std() > 1


def test_curves_leave_out_what_a_row_lacks(tmp_path):
    rows = [{"step": i, "loss": 5 - i} for i in range(4)] + [
        {"step": 4, "knn": 30.0},
        {"step": 8, "knn": 40.0},
    ]
    draw_curves(rows, tmp_path / "curves.png")
    draw_curves([], tmp_path / "empty.png")
    drawn, empty = pixels(tmp_path / "curves.png"), pixels(tmp_path / "empty.png")
    line = np.array([31, 119, 180])  # matplotlib's first colour
    assert (np.abs(drawn - line).sum(-1) < 30).sum() > 100
    assert (np.abs(empty - line).sum(-1) < 30).sum() == 0


def test_attention_covers_the_images(tmp_path):
    maps = torch.zeros(2, 3, 8, 8)
    maps[:, :, :4] = 1
    draw_attention(torch.zeros(2, 3, 8, 8), maps, tmp_path / "maps.png")
    draw_attention(torch.zeros(2, 3, 8, 8), maps > 0.5, tmp_path / "masks.png")
    for name in ("maps.png", "masks.png"):
        colours = {tuple(c) for c in pixels(tmp_path / name).reshape(-1, 3)}
        assert len(colours) > 3  # paper, black image, two ends of the colour scale


@pytest.mark.slow
def test_matplotlib_waits_until_a_picture_is_drawn_and_pyplot_is_never_loaded(tmp_path):
    code = (
        "import sys, torch, multicrop.pictures.figures as p\n"
        "assert 'matplotlib' not in sys.modules\n"
        "p.draw_curves([], sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root, target = Path(__file__).parent.parent, tmp_path / "x.png"
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert target.exists()
