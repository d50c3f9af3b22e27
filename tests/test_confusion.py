import json
import os

import torch
from PIL import Image

from multicrop.pictures._figure import printable
from multicrop.pictures.confusion import draw_confusion
from multicrop.probes.confusion import Confusion

CLASSES = ("cat", "dog", "owl")


def example() -> Confusion:
    predictions, labels = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 1])
    return Confusion(torch.nn.functional.one_hot(predictions, 3).float(), labels, CLASSES)


def test_rows_are_labels_and_columns_predictions():
    assert example().counts.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_accuracy_of_each_class():
    assert example().per_class() == {"cat": 66.67, "dog": 50.0, "owl": None}


def test_the_file_and_the_picture(tmp_path):
    found = json.loads(json.dumps(example().to_dict()))
    assert (
        found["classes"] == list(CLASSES)
        and found["counts"][0] == [2, 1, 0]
        and found["per_class_top1"]["owl"] is None
    )
    draw_confusion(example().counts, CLASSES, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.size[0] > 200


def test_many_classes_have_no_names(tmp_path):
    n = 80
    many = Confusion(torch.eye(n), torch.arange(n), [str(i) for i in range(n)])
    draw_confusion(many.counts, many.classes, tmp_path / "many.png")
    assert (tmp_path / "many.png").stat().st_size > 1000


def test_any_name_of_a_folder_can_be_drawn(tmp_path):
    """Bytes that are no UTF-8, and what matplotlib would read as a broken formula."""
    names = (os.fsdecode(b"lat\xe9"), "$x_$", "a\nb")
    draw_confusion(example().counts, names, tmp_path / "names.png")
    assert (tmp_path / "names.png").stat().st_size > 1000
    assert printable(names[0]) == r"lat\xe9"
