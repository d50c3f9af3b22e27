"""Try out on your own images what to train and whether to pretrain; --dry only looks at them.

Images -> facts and settings -> trials in successive halving -> a table, a verdict and the commands to go on with.

multicrop advise photos --minutes 10
"""

from dataclasses import asdict
from typing import Any

from multicrop import cli
from multicrop.commands._advise_halving import (
    CANDIDATES,
    Candidate,
    Trial,
    ranking,
    rounds_of,
    winner_of,
)
from multicrop.commands._advise_images import command, describe, look, plain_commands
from multicrop.commands._advise_plan import Plan
from multicrop.commands._advise_trials import Interrupted, Run, Trials
from multicrop.commands._advise_words import duration, table, verdict
from multicrop.config.advise import Recipe
from multicrop.engine import ranks
from multicrop.engine.interrupt import Interrupt


def run(recipe: Recipe) -> dict[str, Any]:
    ranks.start(recipe.device)
    if ranks.world_size() > 1:
        raise ValueError("advise runs in one process: start it without torchrun")
    with Interrupt() as interrupt:
        return advise(recipe, interrupt)


def advise(recipe: Recipe, interrupt: Interrupt) -> dict[str, Any]:
    # The images, and what follows from them without training.
    images = look(recipe)
    describe(images)
    commands = plain_commands(images)
    result = {
        "status": "finished",
        "facts": images.described(),
        "settings": images.settings,
        "commands": commands,
    }
    if recipe.dry or images.labels is None:
        if images.labels is None:
            ranks.log("no labels: only stage one can be advised, and nothing is tried")
        say_commands(commands)
        return result

    # The trials, round by round: the better half goes on with twice as much.
    candidates = list(CANDIDATES)
    plan = Plan(recipe, images, rounds_of(len(candidates)))
    trials = Trials(plan)
    say_plan(plan)
    try:
        finished, half = halve(trials, candidates, interrupt)
    except Interrupted:
        ranks.log(f"stopped by a signal: the same command goes on with {recipe.output_dir}")
        return {"status": "interrupted", "output_dir": recipe.output_dir}

    # What they say, and how to go on.
    names = [candidate.name for candidate in candidates]
    winner = winner_of(finished, names)
    chosen = candidates[names.index(winner.candidate)]
    for line in table(finished, names):
        ranks.log(line)
    chance = 100 * images.counts["most"] / images.facts.images
    words = verdict(finished, candidates, half, chance)
    runs = trials.go_on(chosen)
    words.append(cost(trials, chosen, winner, runs))
    if chosen.guide and half:
        words.append("The guide of the trial with half of the labels had seen all of them.")
    for line in words:
        ranks.log(line)
    commands = [command(script, flags) for script, flags in runs]
    say_commands(commands)
    every = [*finished, half] if half else finished
    tried = [asdict(trial) for trial in every]
    return result | {
        "commands": commands,
        "winner": winner.candidate,
        "verdict": words,
        "trials": tried,
        "output_dir": recipe.output_dir,
    }


def halve(
    trials: Trials, candidates: list[Candidate], interrupt: Interrupt
) -> tuple[list[Trial], Trial | None]:
    """All trials with all labels, and the winner's with half of them; None where the time has run out."""
    names = [candidate.name for candidate in candidates]
    finished: list[Trial] = []
    taking_part = candidates
    for entry in trials.plan.rounds:
        if finished and not trials.fits(entry.size, entry.units):
            ranks.log(f"round {entry.number} does not fit the time any more")
            break
        if finished:
            ranked = ranking(
                [trial for trial in finished if trial.round == entry.number - 1], names
            )
            kept = {trial.candidate for trial in ranked[: entry.size]}
            taking_part = [candidate for candidate in taking_part if candidate.name in kept]
        for candidate in taking_part:
            finished.append(trials.trial(candidate, entry))
            if interrupt.asked:
                raise Interrupted
    winner = winner_of(finished, names)
    if not trials.fits(1, winner.units):
        return finished, None
    chosen = candidates[names.index(winner.candidate)]
    return finished, trials.trial(chosen, trials.plan.rounds[winner.round - 1], half=True)


# What people see


def say_plan(plan: Plan) -> None:
    parts = [f"{entry.size} x {entry.units}" for entry in plan.rounds]
    unit = f"{plan.unit:.0f} steps" if plan.recipe.steps else duration(plan.unit)
    ranks.log(
        f"trials: {' + '.join(parts)} units of {unit}; their logs are in {plan.recipe.output_dir}"
    )


def cost(trials: Trials, candidate: Candidate, trial: Trial, runs: list[Run]) -> str:
    """What the commands to go on with take here, and stage one in auto's own length."""
    plan, seconds, parts = trials.plan, 0.0, []
    steps_of = {"train_ssl.py": trial.pretrain_step, "finetune.py": trial.finetune_step}
    for script, flags in runs:
        step, steps = trials.speed_of(candidate, script) or steps_of[script], plan.length(flags)
        if step is None:  # the last trial resumed a run that had nothing left to do
            continue
        seconds += steps * step
        parts.append(f"{script} {steps} steps of {step:.3g} s")
    line = f"The commands below take about {duration(seconds)} here ({', '.join(parts)}), without what is done already"
    if trial.pretrain_step:
        settings = plan.images.settings
        steps = settings["epochs"] * plan.per_epoch
        longer = duration(steps * trial.pretrain_step)
        line += f"; stage one in the length of --recipe auto, {steps} steps, {longer}"
    return f"{line}. On a GPU this is unmeasured."


def say_commands(commands: list[str]) -> None:
    ranks.log("to go on:")
    for line in commands:
        ranks.log(f"  {line}")


def main(argv: list[str] | None = None) -> None:
    cli.main(Recipe, run, argv)
