"""Successive halving: who is tried, for how long, and who goes on. Nothing here touches an image.

Jamieson and Talwalkar 2016 (arXiv 1502.07943): the same share for all, the better half goes on with twice as much.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple


@dataclass(frozen=True)
class Candidate:
    """A way to train a classifier. guide: the candidate whose newest trial is its teacher."""

    name: str
    arch: str
    pretrains: bool = False
    guide: str | None = None


CANDIDATES = (
    Candidate("resnet-scratch", "resnet8"),
    Candidate("cct-scratch", "cct_2_3x2_32"),
    Candidate("vit-scratch", "vit"),
    Candidate("guided", "vit", guide="resnet-scratch"),
    Candidate("resnet-two-stage", "resnet8", pretrains=True),
    Candidate("cct-two-stage", "cct_2_3x2_32", pretrains=True),
    Candidate("vit-two-stage", "vit", pretrains=True),
)
"""The cheapest to go on with first: one run, then one that needs a teacher's, then two stages; smaller networks first.
A guide stands before those it guides."""


class Round(NamedTuple):
    number: int  # from 1
    size: int  # candidates that take part
    units: int  # of compute, that each trial has had in all when the round ends


@dataclass(frozen=True)
class Trial:
    """What a trial came to, a line of trials.jsonl."""

    candidate: str
    round: int
    units: int
    labels: float
    """Share of the training labels that it saw."""
    top1: float
    """Percent of the validation images."""
    images: int
    """Validation images."""
    seconds: float
    pretrain_step: float | None = None
    """Seconds of a step of stage one, saving included; None where it has none."""
    finetune_step: float | None = None


def rounds_of(count: int) -> list[Round]:
    """Everyone gets one unit, the better half two, then four, until one or two candidates are left."""
    rounds = [Round(1, count, 1)]
    while rounds[-1].size > 2:
        last = rounds[-1]
        rounds.append(Round(last.number + 1, (last.size + 1) // 2, 2 * last.units))
    return rounds


def units_of(rounds: Sequence[Round]) -> int:
    """The units of all trials, with the last one, of the winner with half of the labels."""
    return sum(entry.size * entry.units for entry in rounds) + rounds[-1].units


def ranking(trials: Iterable[Trial], names: Sequence[str]) -> list[Trial]:
    """The best first; of equal ones the cheaper, which `names` has first."""
    return sorted(trials, key=lambda trial: (-trial.top1, names.index(trial.candidate)))


def standard_error(top1: float, images: int) -> float:
    """The binomial standard error of an accuracy, both in percent.

    One hit and one miss are added, or 8 of 8 images would count as certain.
    """
    share = (top1 / 100 * images + 1) / (images + 2)
    return 100 * sqrt(share * (1 - share) / images)


def uncertainty(one: Trial, other: Trial) -> float:
    """Two standard errors of the difference of two accuracies in percent.

    As if each had images of its own; that both are judged by the same ones makes the true one smaller, if anything.
    """
    errors = (standard_error(trial.top1, trial.images) for trial in (one, other))
    return 2 * sqrt(sum(error**2 for error in errors))


def separated(one: Trial, other: Trial) -> bool:
    return abs(one.top1 - other.top1) > uncertainty(one, other)


def of_last_round(trials: Sequence[Trial]) -> list[Trial]:
    last = max(trial.round for trial in trials)
    return [trial for trial in trials if trial.round == last]


def winner_of(trials: Sequence[Trial], names: Sequence[str]) -> Trial:
    """Of the last round the best, or the cheapest of those that cannot be told from it."""
    ranked = ranking(of_last_round(trials), names)
    equal = [trial for trial in ranked if not separated(trial, ranked[0])]
    return min(equal, key=lambda trial: names.index(trial.candidate))
