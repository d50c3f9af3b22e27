"""The part of a report about a classifier: what it takes for what, how sure it is, where it errs. n images."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy.stats import binomtest
from torch import Tensor

from multicrop.commands._corruption_errors import FILES
from multicrop.commands._report_block import attempt
from multicrop.commands._report_data import tile
from multicrop.commands._report_features import Comparing
from multicrop.commands._report_images import SplitImages
from multicrop.commands.labels import RESULT
from multicrop.pictures import charts
from multicrop.pictures.page import Block, Chart, Section, Table, Tiles, Words
from multicrop.probes.accuracy import accuracies, balanced_accuracy
from multicrop.probes.calibration import calibration
from multicrop.probes.confusion import Confusion
from multicrop.supervised.classifier import Classifier

SQUARES = 30  # classes of a confusion matrix that is drawn
PAIRS = 20
MISTAKES = 24
BINS = 10


def section(test: SplitImages, comparing: Comparing, run: Path | None) -> Section:
    file = comparing.file
    assert file is not None
    logits: list[Tensor] = []

    def find_logits() -> Iterator[Block]:
        if test.labels is None:
            raise ValueError("the images have no labels")
        file.check_classes(test.classes, str(file.path))
        model = Classifier(comparing.trained(), len(test.classes))
        model.load_heads(file.head, file.second_head)
        logits.append(comparing.of(model.to(comparing.device), test, comparing.transform(test)))
        top1, top5 = accuracies(logits[0], test.labels)
        balanced = balanced_accuracy(logits[0].argmax(1) == test.labels, test.labels)
        yield Words(
            f"Of {test.looked_at} {top1:.2f} % are right, {top5:.2f} % within the first five; the mean over "
            f"the classes is {balanced:.2f} %."
        )

    blocks = attempt("accuracy", find_logits)
    if logits:
        fit = file.temperature()
        scaled = logits[0] / (fit["temperature"] if fit else 1.0)
        blocks += attempt("accuracy of each class", lambda: per_class(logits[0], test))
        blocks += attempt("confusions", lambda: confusions(logits[0], test))
        blocks += attempt("reliability", lambda: reliability(scaled, test, bool(fit)))
        blocks += attempt("mistakes", lambda: mistakes(scaled, test))
    if run is not None:
        blocks += attempt("robustness", lambda: robustness(run))
        blocks += attempt("label efficiency", lambda: label_efficiency(run))
    return Section("The classifier", blocks)


def per_class(logits: Tensor, test: SplitImages) -> Iterator[Block]:
    assert test.labels is not None
    hits = logits.argmax(1) == test.labels
    rows = []
    for label, name in enumerate(test.classes):
        of_class = hits[test.labels == label]
        if len(of_class):
            right = int(of_class.sum())
            # Wilson 1927: holds for few images, and near 0 and 100 %, too
            interval = binomtest(right, len(of_class)).proportion_ci(method="wilson")
            rows.append(
                {
                    "class": name,
                    "accuracy, percent": round(100 * right / len(of_class), 2),
                    "from": round(100 * interval.low, 2),
                    "to": round(100 * interval.high, 2),
                    "images": len(of_class),
                }
            )
    rows.sort(key=lambda row: row["accuracy, percent"])
    shown = rows[: 2 * SQUARES]
    caption = "Accuracy of each class with its 95 % interval (Wilson), the worst first"
    caption += f"; {len(shown)} of {len(rows)} classes" if len(shown) < len(rows) else ""
    yield Chart(
        "per_class", caption, charts.intervals(shown, "class", "accuracy, percent", "from", "to")
    )


def confusions(logits: Tensor, test: SplitImages) -> Iterator[Block]:
    assert test.labels is not None
    counts = Confusion(logits, test.labels, test.classes).counts
    classes = test.classes
    totals = counts.sum(1).clamp(min=1)
    if len(classes) <= SQUARES:
        rows = [
            {
                "class": classes[label],
                "taken for": classes[taken],
                "percent": round(100 * int(counts[label, taken]) / int(totals[label]), 1),
                "images": int(counts[label, taken]),
            }
            for label in range(len(classes))
            for taken in range(len(classes))
        ]
        yield Chart(
            "confusion",
            "Which class is taken for which",
            charts.heat(rows, "taken for", "class", "percent"),
        )
    errors = counts.clone()
    errors.fill_diagonal_(0)
    values, places = errors.flatten().topk(min(PAIRS, errors.numel()))
    pairs = [
        [
            classes[place // len(classes)],
            classes[place % len(classes)],
            value,
            int(totals[place // len(classes)]),
        ]
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
        if value
    ]
    if pairs:
        yield Table("The most frequent confusions", ["class", "taken for", "images", "of"], pairs)


def reliability(logits: Tensor, test: SplitImages, calibrated: bool) -> Iterator[Block]:
    """Guo et al. 2017 (arXiv 1706.04599), figure 1."""
    assert test.labels is not None
    numbers = calibration(logits, test.labels)
    confidence, predicted = logits.double().softmax(1).max(1)
    hits = predicted == test.labels
    chosen = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # bins closed above
    rows: list[dict[str, Any]] = []
    for number in range(BINS):
        of_bin = hits[chosen == number]
        if len(of_bin):
            accuracy = round(100 * of_bin.double().mean().item(), 2)
            width = 100 / BINS
            rows.append(
                {
                    "from": number * width,
                    "to": (number + 1) * width,
                    "accuracy": accuracy,
                    "images": len(of_bin),
                }
            )
    words = "with its temperature" if calibrated else "without a temperature"
    yield Chart(
        "reliability",
        f"How often it is right where it is how sure, {words}: expected calibration error {numbers.ece:.2f} %; below "
        "the line it is too sure",
        charts.reliability(rows),
    )


def mistakes(logits: Tensor, test: SplitImages) -> Iterator[Block]:
    assert test.labels is not None
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != test.labels).nonzero()[:, 0]
    if not len(wrong):
        yield Words("There are no mistakes.")
        return
    order = wrong[confidence[wrong].argsort(descending=True)][:MISTAKES].tolist()
    tiles = [
        tile(
            test, image, f"taken for {test.classes[int(predicted[image])]}, {confidence[image]:.0%}"
        )
        for image in order
    ]
    yield Tiles(f"The mistakes of which it is most sure, of {len(wrong):,}", [("", tiles)])


# What other commands have measured


def robustness(run: Path) -> Iterator[Block]:
    for name in FILES.values():
        path = run / name
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        rows = [
            {"severity": severity, "error, percent": error, "corruption": corruption}
            for corruption, row in result["corruptions"].items()
            for severity, error in zip(result["severities"], row["error"], strict=True)
        ]
        clean, mean = result["clean"]["error"], result["mean_corruption_error"]
        yield Chart(
            "robustness",
            f"Error under corruptions ({path.name}): {clean:.2f} % without, {mean:.2f} % on average",
            charts.lines(rows, "severity", "error, percent", "corruption"),
        )


def label_efficiency(run: Path) -> Iterator[Block]:
    for path in (run / "labels" / RESULT, run / RESULT):
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        rows = [
            {
                "percent of the labels": point["percent"],
                "top-1, percent": point["top1"],
                "by": f"{curve['network']}, {curve['method']}",
            }
            for curve in result["curves"]
            for point in curve["points"]
        ]
        yield Chart(
            "labels",
            f"Accuracy by the share of labels ({path.name})",
            charts.lines(rows, "percent of the labels", "top-1, percent", "by"),
        )
        return
