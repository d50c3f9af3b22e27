"""Stage two's recipes side by side: one small ViT, the same images, equal epochs, several seeds; and a table of them.

    python -m benchmarks.recipes_cifar10 --datapath cifar10 --epochs 6 --seeds 0 1 2 --streams 2

Every run is a command of train_ssl.py or finetune.py that is printed, in a process of its own. Its result becomes a
line of OUT/results.jsonl; what is there is not run again, and a run that was stopped goes on. Prints the table of
docs/recipes.md and one JSON object.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from benchmarks._jobs import Job, Line, Results, raise_failed, run_all, spread
from benchmarks._machine import machine
from multicrop import cli
from multicrop.config.checks import AT_LEAST_1, check_values
from multicrop.engine import ranks

STUDENT = "--arch vit --image_size 32 --patch_size 4 --embed_dim 64 --num_layers 4 --num_heads 4"
PLAIN = "--aa false --cm false --mu false --re 0 --ra 1 --batch_size 64 --val_fraction 0"
LIGHT = f"{PLAIN} --lr 1e-3 --warmup 1 --sd 0"
TEACHER = f"{PLAIN} --image_size 32 --optimizer sgd --lr 0.05 --min_lr 0 --warmup 0 --weight_decay 5e-4 --sd 0"
STAGE_ONE = (
    f"{STUDENT} --out_dim 1024 --use_bn_in_head true --local_crops_number 4 --local_crops_scale 0.2 0.5 "
    "--global_crops_scale 0.5 1.0 --batch_size_per_gpu 64 --lr 4e-3 --warmup_epochs 1 --clip_grad 0.3 "
    "--teacher_temp 0.04 --warmup_teacher_temp_epochs 0 --momentum_teacher 0.99 --weight_decay_end 0.1"
)
GUIDED = "--guidance linear --guide_student blocks.0 blocks.2 blocks.3 --guide_teacher s1 s2 s3"
STANDARDISED = (
    "--distillation soft --kd_standardise true --kd_weight 9 --kd_temperature 2 --ce_weight 0.5"
)
DHVT = (
    "--ra 1 --batch_size 64 --val_fraction 0 --lr 1e-3 --warmup 1 --sd 0.1 --decay matrices --no_decay cls_token "
    "--aa_policy rand-m9-mstd0.5-inc1 --re_mode pixel --re_aspect log --re_sh 0.3333 --alpha 0.8 --mix_prob 1 "
    "--repeats 3 --ema_decay 0.99996 --ema_warmup true"
)
ROWS = {  # name: (flags, whether from stage one, whether with the teacher)
    "scratch": (LIGHT, False, False),
    "two-stage": (LIGHT, True, False),
    "locality guidance": (f"{LIGHT} {GUIDED}", False, True),
    "logit standardisation": (f"{LIGHT} {STANDARDISED}", False, True),
    "guidance + two-stage": (f"{LIGHT} {GUIDED}", True, True),
    "DHVT recipe": (DHVT, False, False),
}


@dataclass(frozen=True)
class Recipe:
    """Compare the recipes of stage two on CIFAR-10."""

    datapath: str = "data"
    """Folder of CIFAR-10, or of some of it: {train,test}/<class>/*."""
    out: str = "runs/recipes_cifar10"
    """Folder of the runs and of results.jsonl."""
    epochs: int = 6
    """Epochs of every row."""
    ssl_epochs: int = 6
    """Epochs of stage one, for the rows that start from it; one run per seed."""
    teacher_epochs: int = 6
    """Epochs of the CNN that teaches, one for all seeds."""
    teacher_arch: str = "resnet20"
    """The CNN: resnet8, resnet20 or resnet56."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each row."""
    streams: int = 2
    """Runs at a time."""
    threads: int = 1
    """Threads of each run."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def __post_init__(self):
        names = ("epochs", "ssl_epochs", "teacher_epochs", "streams", "threads")
        check_values(self, AT_LEAST_1, *names)


def jobs(r: Recipe) -> list[Job]:
    """In an order in which each comes after those that it needs."""
    data = f"--dataset CIFAR10 --datapath {shlex.quote(r.datapath)} --device {r.device}"
    words = f"finetune.py --scratch {data} --arch {r.teacher_arch} {TEACHER} --epochs {r.teacher_epochs}"
    teacher = _job(r, "teacher", 0, f"{words} --eval_freq 1000")
    found = [teacher]
    for seed in r.seeds:
        words = f"train_ssl.py {data} {STAGE_ONE} --epochs {r.ssl_epochs} --knn_freq {r.ssl_epochs}"
        pretrained = _job(r, "stage one", seed, words)
        rows = [_row(r, row, seed, data, pretrained, teacher) for row in ROWS]
        found += [pretrained, *sorted(rows, key=lambda job: len(job.needs))]
    return found


def _row(r: Recipe, row: str, seed: int, data: str, pretrained: Job, teacher: Job) -> Job:
    flags, from_ssl, guided = ROWS[row]
    needs = ([pretrained] if from_ssl else []) + ([teacher] if guided else [])
    start = f"--pretrained_weights {_folder(r, pretrained)}" if from_ssl else "--scratch"
    start += f" --teacher {_folder(r, teacher)}" if guided else ""
    words = f"finetune.py {start} {data} {STUDENT} {flags} --epochs {r.epochs} --eval_freq 1000"
    return _job(r, row, seed, words, tuple(need.name for need in needs))


def _job(r: Recipe, row: str, seed: int, words: str, needs: tuple[str, ...] = ()) -> Job:
    name = f"{row}-{seed}".replace(" ", "_").replace("+", "and")
    ends = ("--seed", str(seed), "--output_dir", str(Path(r.out) / name))
    return Job(name, {"row": row, "seed": seed}, (*shlex.split(words), *ends), needs)


def _folder(r: Recipe, job: Job) -> str:
    return str(Path(r.out) / job.name)


def table(lines: list[Line]) -> str:
    """Mean and standard deviation of each row's test accuracy after the last epoch."""
    text = [
        "| recipe | test top-1, percent | of the averaged weights | seeds |",
        "|---|---|---|---|",
    ]
    for row in ("teacher", *ROWS):
        found = [line["result"] for line in lines if line["row"] == row]
        if found:
            text.append(
                f"| {row} | {_spread(found, 'test_top1')} | {_spread(found, 'ema_test_top1')} | {len(found)} |"
            )
    return "\n".join(text)


def _spread(results: list[dict], name: str) -> str:
    return spread([result[name] for result in results if name in result])


def compare(r: Recipe) -> dict:
    device = ranks.start(r.device)
    folder = Path(r.out)
    folder.mkdir(parents=True, exist_ok=True)
    results, planned = Results(folder / "results.jsonl"), jobs(r)
    lines, failed = run_all(planned, results, streams=r.streams, threads=r.threads)
    print(table(lines))
    raise_failed(failed, len(planned))
    return {
        **machine(device),
        "threads": r.threads,
        "streams": r.streams,
        "runs": len(lines),
        "results": str(results.path),
    }


def main() -> None:
    cli.main(Recipe, compare)


if __name__ == "__main__":
    main()
