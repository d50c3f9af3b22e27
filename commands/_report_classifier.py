"""The part of a report about a classifier: what it takes for what, how sure it is, where it errs. n images."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy.stats import binomtest
from torch import Tensor

from multicrop.commands._corruption_errors import FILES
from multicrop.commands._report_block import attempt
from multicrop.commands._report_features import Comparing
from multicrop.commands._report_images import SplitImages
from multicrop.commands._report_tiles import tile
from multicrop.commands.labels import RESULT
from multicrop.pictures import charts
from multicrop.pictures.page import Block, Chart, Section, Table, Tiles, Words
from multicrop.probes.accuracy import accuracies, balanced_accuracy
from multicrop.probes.calibration import calibration
from multicrop.supervised.classifier import Classifier

SQUARES = 100  # classes of a confusion matrix that is drawn
BARS = 60  # classes whose accuracy is drawn
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
        within = f", {top5:.2f} % within the first five" if len(test.classes) > 5 else ""
        yield Words(
            f"{file.path}, after epoch {file.metadata.epoch:g}: of {test.looked_at} {top1:.2f} % are right"
            f"{within}; the mean over the classes is {balanced:.2f} %."
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
    hits = (logits.argmax(1) == test.labels).double()
    images = test.labels.bincount(minlength=len(test.classes)).tolist()
    right = test.labels.bincount(hits, minlength=len(test.classes)).long().tolist()
    there = [label for label, count in enumerate(images) if count]
    there.sort(key=lambda label: right[label] / images[label])
    rows = []
    for label in there[:BARS]:
        # Wilson 1927: holds for few images, and near 0 and 100 %, too
        interval = binomtest(right[label], images[label]).proportion_ci(method="wilson")
        rows.append(
            {
                "class": test.classes[label],
                "accuracy, percent": round(100 * right[label] / images[label], 2),
                "from": round(100 * interval.low, 2),
                "to": round(100 * interval.high, 2),
                "images": images[label],
            }
        )
    caption = "Accuracy of each class with its 95 % interval (Wilson), the worst first"
    caption += f"; {len(rows):,} of {len(there):,} classes" if len(rows) < len(there) else ""
    yield Chart(
        "per_class", caption, charts.intervals(rows, "class", "accuracy, percent", "from", "to")
    )


def confusions(logits: Tensor, test: SplitImages) -> Iterator[Block]:
    assert test.labels is not None
    classes, totals = test.classes, test.labels.bincount(minlength=len(test.classes)).tolist()
    # Of each pair that there is (label, taken for): the matrix of 10,000 classes would be a gigabyte
    found, numbers = (test.labels * len(classes) + logits.argmax(1)).unique(return_counts=True)
    counted = [
        (*divmod(pair, len(classes)), count)
        for pair, count in zip(found.tolist(), numbers.tolist(), strict=True)
    ]
    if len(classes) <= SQUARES:
        rows = [
            {
                "class": classes[label],
                "taken for": classes[taken],
                "percent": round(100 * count / totals[label], 1),
                "images": count,
            }
            for label, taken, count in counted
        ]
        yield Chart(
            "confusion",
            "Which class is taken for which",
            charts.heat(rows, "taken for", "class", "percent", classes),
        )
    else:
        yield Words(f"A matrix of {len(classes):,} classes is not drawn (most: {SQUARES}).")
    errors = sorted((c for c in counted if c[0] != c[1]), key=lambda c: c[2], reverse=True)
    pairs = [
        [classes[label], classes[taken], count, totals[label]]
        for label, taken, count in errors[:PAIRS]
    ]
    if pairs:
        yield Table("The most frequent confusions", ["class", "taken for", "images", "of"], pairs)


def reliability(logits: Tensor, test: SplitImages, calibrated: bool) -> Iterator[Block]:
    """Guo et al. 2017 (arXiv 1706.04599), figure 1."""
    assert test.labels is not None
    numbers = calibration(logits, test.labels, BINS)
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
