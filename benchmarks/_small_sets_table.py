"""The table of benchmarks/small_sets.py: a row for each set, backbone and setting; in words where pretraining fails.

It reads lines of results.jsonl and nothing else. Accuracies are top-1 on the test images in percent.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks._jobs import Line, spread

BASELINES = ("random", "scratch", "scratch_compute")
COLLAPSED_KNN = 2.0  # points of k-NN accuracy below that of random weights
COLLAPSED_GAP = 0.05  # target_gap, nats: the targets are all alike (probes/collapse.py)
HEADS = (
    "set", "backbone", "setting", "k-NN: raw pixels", "random weights", "pretrained", "linear: raw pixels",
    "random weights", "pretrained", "scratch, equal epochs", "scratch, equal compute", "finetuned",
    "mean of classes: scratch, equal epochs", "scratch, equal compute", "finetuned", "collapsed",
)  # fmt: skip


def collapsed(knn: float, random_knn: float | None, target_gap: float | None) -> bool:
    """Whether a run lost what even random weights show, or its targets no longer differ; None is not known."""
    below = random_knn is not None and knn < random_knn - COLLAPSED_KNN
    return below or (target_gap is not None and target_gap < COLLAPSED_GAP)


@dataclass(frozen=True)
class Row:
    """The results of one set, backbone and setting, over seeds."""

    names: tuple[str, str, str]
    """Set, backbone, setting."""
    lines: Sequence[Line]
    """Those of the setting, and those that hold for every setting of the set, or of the set and backbone."""

    def values(self, what: str, number: str) -> list[float]:
        """A number of each seed that has it."""
        found = [line["numbers"].get(number) for line in self.lines if line["what"] == what]
        return [value for value in found if value is not None]

    @property
    def cells(self) -> list[str]:
        """As HEADS names them."""
        trained = ("scratch", "scratch_compute", "finetune")
        found = [self.values(*pair) for pair in (
            ("raw", "knn"), ("random", "knn"), ("pretrained", "knn"),
            ("raw", "linear"), ("random", "linear"), ("pretrained", "linear"),
        )]  # fmt: skip
        found += [self.values(what, "test_top1") for what in trained]
        equal = [line["numbers"].get("equal_classes", True) for line in self.lines]
        balanced = [[] if all(equal) else self.values(what, "balanced_top1") for what in trained]
        fates = self.values("pretrained", "collapsed")
        fate = f"{sum(map(bool, fates))} of {len(fates)}"
        return [*self.names, *map(_cell, found + balanced), fate]

    def sentences(self) -> list[str]:
        """Where pretraining is no better than doing without."""
        where, found = ", ".join(self.names), []
        random, after = self.values("random", "knn"), self.values("pretrained", "knn")
        if random and after:
            apart = max(_deviation(random), _deviation(after))
            gain = statistics.mean(after) - statistics.mean(random)
            if gain <= apart:
                by = f"{gain:+.2f} points with a spread of {apart:.2f}"
                if len(after) < 2:
                    by = f"{gain:+.2f} points, of one seed"
                found.append(
                    f"{where}: k-NN after pretraining does not beat random weights ({by})."
                )
        finetuned = self.values("finetune", "test_top1")
        for what, words in (("scratch", "equal epochs"), ("scratch_compute", "equal compute")):
            scratch = self.values(what, "test_top1")
            if not (finetuned and scratch):
                continue
            loss = statistics.mean(scratch) - statistics.mean(finetuned)
            if loss > 0:
                found.append(
                    f"{where}: finetuned is below scratch at {words} by {loss:.2f} points."
                )
        return found


def rows(
    lines: Iterable[Line],
    sets: Sequence[str],
    backbones: Sequence[str],
    settings: Sequence[str],
    owners: Mapping[str, str] = MappingProxyType({}),
) -> list[Row]:
    """The rows that have a result, in this order. A later line of the same run takes the earlier one's place.

    owners: of settings whose baselines are not those of the plain network, the setting whose they are.
    """
    key = ("set", "backbone", "setting", "seed", "what")
    latest = {tuple(line[name] for name in key): line for line in lines}.values()
    found = []
    for names in ((a, b, c) for a in sets for b in backbones for c in settings):
        of_row = [line for line in latest if _belongs(line, names, owners.get(names[2]))]
        if any(line["backbone"] for line in of_row):
            found.append(Row(names, of_row))
    return found


def table(found: Sequence[Row]) -> str:
    """Markdown: mean ± standard deviation over seeds (n); beneath it a sentence for each failure."""
    text = [_markdown(HEADS), "|---" * len(HEADS) + "|"]
    text += [_markdown(row.cells) for row in found]
    sentences = [sentence for row in found for sentence in row.sentences()]
    return "\n".join(text + [""] + [f"- {sentence}" for sentence in sentences])


def _belongs(line: Line, names: tuple[str, str, str], owner: str | None) -> bool:
    """Whether a line is of this set, backbone and setting, or holds for all backbones or settings.

    owner: the setting whose baselines this one has. Of the lines that hold for all settings it then has those alone
    that hold for all backbones as well.
    """
    if owner and line["backbone"] and line["setting"] is None:
        return False
    if owner and line["what"] in BASELINES:
        names = (*names[:2], owner)
    labels = (line["set"], line["backbone"], line["setting"])
    return all(value in (None, name) for value, name in zip(labels, names, strict=True))


def _cell(values: Sequence[float]) -> str:
    return f"{spread(values)} ({len(values)})" if values else "-"


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _markdown(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
