"""What trials say, in words and in one table."""

from collections.abc import Sequence

from multicrop.commands._advise_halving import (
    Candidate,
    Trial,
    of_last_round,
    ranking,
    separated,
    standard_error,
    uncertainty,
    winner_of,
)


def result_line(trial: Trial) -> str:
    labels = "" if trial.labels == 1 else f" with {trial.labels:.0%} of the labels"
    units = f"{trial.units} unit" + "s" * (trial.units > 1)
    return f"{trial.candidate}{labels}, {units}: {_cell(trial)}"


def table(trials: Sequence[Trial], names: Sequence[str]) -> list[str]:
    """A line per candidate, a column per round: top-1 in percent, its standard error, seconds."""
    rounds = sorted({(trial.round, trial.units) for trial in trials})
    heads = [f"round {number} ({units} unit{'s' * (units > 1)})" for number, units in rounds]
    rows = [["candidate", *heads]]
    best_last = {trial.candidate: (trial.round, trial.top1) for trial in trials}
    for name in sorted(best_last, key=lambda name: (best_last[name], -names.index(name)))[::-1]:
        cells = {trial.round: _cell(trial) for trial in trials if trial.candidate == name}
        rows.append([name, *(cells.get(number, "") for number, _ in rounds)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    images = trials[0].images
    return [f"top-1 % on {images} validation images ± one standard error, seconds", *lines]


def verdict(
    trials: Sequence[Trial], candidates: Sequence[Candidate], half: Trial | None, chance: float
) -> list[str]:
    """What wins, whether to pretrain, what more time and more labels would bring.

    half: the winner's trial with half of the labels. chance: percent that the most frequent class alone would get.
    """
    names = [candidate.name for candidate in candidates]
    winner = winner_of(trials, names)
    lines = [chance_line(trials, names, chance), winner_line(trials, names)]
    lines.append(pretraining_line(trials, candidates))
    time_gain = doubling(trials, winner)
    lines.append(time_line(time_gain))
    if half:
        lines.append(label_line(winner, half, time_gain))
    return [line for line in lines if line]


def chance_line(trials: Sequence[Trial], names: Sequence[str], chance: float) -> str:
    """A warning where the best has not learnt what shows; else empty."""
    best = ranking(of_last_round(trials), names)[0]
    if best.top1 - chance > 2 * standard_error(best.top1, best.images):
        return ""
    return (
        f"Nothing has learnt enough to be judged: the best has {_accuracy(best)} %, and the most frequent class alone "
        f"{chance:.1f} %. Give it more time."
    )


def winner_line(trials: Sequence[Trial], names: Sequence[str]) -> str:
    ranked = ranking(of_last_round(trials), names)
    best = ranked[0]
    if len(ranked) == 1:
        return f"{best.candidate}: {_accuracy(best)}; it was the only candidate."
    equal = [trial for trial in ranked if not separated(trial, best)]
    second = ranked[1]
    gap = f"{best.top1 - second.top1:.1f} points"
    bound = (
        f"the uncertainty of the difference ({uncertainty(best, second):.1f}, two standard errors)"
    )
    if len(equal) == 1:
        return f"{best.candidate} wins over {second.candidate} by {gap}, more than {bound}."
    cheaper = winner_of(trials, names).candidate
    return (
        f"{_listed([trial.candidate for trial in equal])} cannot be separated: {best.candidate} leads "
        f"{second.candidate} by {gap}, not more than {bound}. "
        f"Recommended is the cheaper to go on with: {cheaper}."
    )


def pretraining_line(trials: Sequence[Trial], candidates: Sequence[Candidate]) -> str:
    """The best without and the best with stage one, in the last round that had both; empty where none had."""
    names = [candidate.name for candidate in candidates]
    two_stage = {candidate.name for candidate in candidates if candidate.pretrains}
    for number in sorted({trial.round for trial in trials}, reverse=True):
        ranked = ranking([trial for trial in trials if trial.round == number], names)
        pretrained = next((trial for trial in ranked if trial.candidate in two_stage), None)
        scratch = next((trial for trial in ranked if trial.candidate not in two_stage), None)
        if pretrained is None or scratch is None:
            continue
        gain = pretrained.top1 - scratch.top1
        bound = uncertainty(pretrained, scratch)
        compared = (
            f"with pretraining {pretrained.top1:.1f} % ({pretrained.candidate}), without {scratch.top1:.1f} % "
            f"({scratch.candidate}) in round {number}, a difference of {gain:+.1f} ± {bound:.1f} points"
        )
        if not separated(pretrained, scratch):
            return f"Whether pretraining helps cannot be said: {compared}. Without it is cheaper."
        if gain > 0:
            return f"Pretrain: {compared}."
        return f"Do not pretrain, for so short a time: {compared}."
    return ""


def doubling(trials: Sequence[Trial], winner: Trial) -> float | None:
    """What the last doubling of its time brought the winner, in points; None where there was none."""
    before = [
        trial
        for trial in trials
        if trial.candidate == winner.candidate and 2 * trial.units == winner.units
    ]
    return winner.top1 - before[0].top1 if before else None


def time_line(gain: float | None) -> str:
    if gain is None:
        return "What twice the time would bring is not known: there was one round."
    if gain <= 0:
        return f"Twice the time would bring nothing that shows: the last doubling brought {gain:+.1f} points."
    return f"Twice the time would bring about {gain:.1f} points, if it goes on as in the last doubling."


def label_line(winner: Trial, half: Trial, time_gain: float | None) -> str:
    """Whether to label more: twice the labels against twice the time."""
    gain = winner.top1 - half.top1
    brought = f"the last doubling of the labels brought {gain:+.1f} ± {uncertainty(winner, half):.1f} points"
    if time_gain is not None:
        brought += f", that of the time {time_gain:+.1f}"
    # Without a doubling of the time there is nothing to compare with.
    if time_gain is None or gain <= max(time_gain, 0):
        return f"Labels: {brought}."
    within = "" if separated(winner, half) else " (within the uncertainty)"
    return f"Label more images: {brought}{within}."


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _accuracy(trial: Trial) -> str:
    return f"{trial.top1:.1f} ± {standard_error(trial.top1, trial.images):.1f}"


def _cell(trial: Trial) -> str:
    return f"{_accuracy(trial)}, {duration(trial.seconds)}"


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}"
