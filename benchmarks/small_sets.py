"""Settings of stage one judged on real small image sets: what pretraining gives beyond doing without it.

    python -m benchmarks.small_sets --datapath sets --sets gtsrb neu_det --settings published auto --seeds 0 1 2
    python -m benchmarks.small_sets --sets gtsrb neu_det --settings published auto --table

Each set is cut to --cap training images, and every setting is shown the same number of images. For each set, backbone
and seed: probes of raw pixels and of random weights, then for each setting pretraining, its probes and a finetune, and
against it scratch with as many epochs as the finetune, and scratch for as many seconds as pretraining and finetune
together (of the processor's time on a CPU, which other work beside does not stretch). Scratch and the first probes are
the same for all settings but for auto, which chooses parts of the network: it is compared with that network, and with
scratch that mirrors images where its finetune does. Scratch at equal compute follows the seconds of auto, or of the
first setting.

Every run is a command that is printed, in a process of its own, with its result as a line of OUT/results.jsonl. What
is there is not run again; a run that was stopped begins anew, because its seconds count. A line is known by its
command: after a change of the code or of SETTINGS, take another --out.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks._capped import cap_set
from benchmarks._jobs import Job, Line, Results, Words, raise_failed, run_all
from benchmarks._machine import machine
from benchmarks._small_sets_line import line_of
from benchmarks._small_sets_settings import (
    BACKBONES,
    SETTINGS,
    epochs_of,
    equal_compute_epochs,
    setting_flags,
)
from benchmarks._small_sets_table import rows, table
from benchmarks.recipes_cifar10 import PLAIN
from multicrop import cli
from multicrop.config import auto_finetune
from multicrop.config.checks import A_PERCENTAGE, AT_LEAST_1, check_values
from multicrop.engine import ranks

SETS = ("gtsrb", "neu_det", "malaria50", "cifar100_png", "tiny-imagenet-200", "cifar10")
K = 20  # neighbours
# The rate of --recipe auto for networks as small as BACKBONES
RATE = f"--lr {auto_finetune.RATE:g} --clip_grad {auto_finetune.CLIP:g} --warmup 1 --sd 0"


@dataclass(frozen=True)
class Recipe:
    """Judge settings of stage one on small image sets."""

    datapath: str = "data"
    """Folder of the unpacked sets, each by its name: {train,test}/<class>/*, or Tiny-ImageNet's official layout."""
    sets: tuple[str, ...] = SETS
    """Names of folders there."""
    backbones: tuple[str, ...] = tuple(BACKBONES)
    """Of vit, cct and resnet."""
    settings: tuple[str, ...] = ("published", "auto")
    """Of published, shapes, auto, and joint, which has the baselines of auto beside it."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each run."""
    cap: int = 4000
    """Most training images of a set, as many of each class as there are."""
    test_cap: int = 2000
    """Most test images."""
    ssl_images: int = 60000
    """Images that pretraining is shown."""
    ft_images: int = 30000
    """Images that the finetune is shown, and scratch at equal epochs."""
    label_percent: float = 100.0
    """Percent of each class's training images that stage two has, another draw for each seed; pretraining has all."""
    streams: int = 2
    """Runs at a time."""
    threads: int = 1
    """Threads of each run."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: str = "runs/small_sets"
    """Folder of the runs, the cut sets and results.jsonl."""
    table: bool = False
    """Only print the table of what results.jsonl has."""

    def __post_init__(self):
        names = ("cap", "test_cap", "ssl_images", "ft_images", "streams", "threads")
        check_values(self, AT_LEAST_1, *names)
        check_values(self, A_PERCENTAGE, "label_percent")
        for name, known in (("backbones", BACKBONES), ("settings", SETTINGS)):
            for value in getattr(self, name):
                if value not in known:
                    raise ValueError(f"--{name} {value}: there are {', '.join(known)}")
        for setting in self.settings:
            owner = SETTINGS[setting].network
            if owner and owner not in self.settings:
                raise ValueError(
                    f"--settings {setting}: its baselines are those of {owner}, give both"
                )
        for name in ("sets", "backbones", "settings", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"--{name}: needs at least one, and each once")


# Jobs


@dataclass(frozen=True)
class Plan:
    """The jobs of one set and backbone."""

    r: Recipe
    set: str
    backbone: str
    images: int
    """Training images of the set."""

    @property
    def compared(self) -> str:
        """The setting whose seconds scratch at equal compute has."""
        return "auto" if "auto" in self.r.settings else self.r.settings[0]

    @property
    def labelled(self) -> int:
        """Training images of stage two, about."""
        return max(1, round(self.images * self.r.label_percent / 100))

    @property
    def ft_epochs(self) -> int:
        return epochs_of(self.r.ft_images, self.labelled)

    @property
    def data(self) -> str:
        path = shlex.quote(str(set_folder(self.r, self.set)))
        return f"--dataset image_folder --datapath {path} --device {self.r.device}"

    def jobs(self) -> list[Job]:
        """Each after those that it needs, and those that need none first, so that no stream waits for long."""
        seeds, settings = self.r.seeds, self.r.settings
        pairs = [(setting, seed) for setting in settings for seed in seeds]
        owners = dict.fromkeys(self.owner(setting) for setting in settings)
        baselines = [(owner, seed) for owner in owners for seed in seeds]
        first = [pair for pair in baselines if not self._pretraining(*pair)]
        later = [pair for pair in baselines if self._pretraining(*pair)]
        found = [make(*pair) for pair in first for make in (self.random, self.scratch)]
        found += [self.pretrain(*pair) for pair in pairs]
        found += [make(*pair) for pair in later for make in (self.random, self.scratch)]
        found += [make(*pair) for pair in pairs for make in (self.probe, self.finetune)]
        return found + [self.scratch_compute(self.compared, seed) for seed in seeds]

    def owner(self, setting: str) -> str | None:
        """The setting whose network the baselines of a setting have; None: the plain one, for all settings."""
        return SETTINGS[setting].network

    def network(self, owner: str | None, pretrained: list[Line]) -> str:
        """Flags of the baselines' network, given the line of the owner's pretraining."""
        return pretrained[0]["network"] if owner else BACKBONES[self.backbone]

    def random(self, owner: str | None, seed: int) -> Job:
        def words(needed: list[Line]) -> str:
            network = self.network(owner, needed)
            flags = f"{network} --random_weights true --raw_pixels false --seed {seed}"
            return f"{probe_words(self.data)} {flags}"

        return self._job("random", owner, seed, words, self._pretraining(owner, seed))

    def scratch(self, owner: str | None, seed: int) -> Job:
        def words(needed: list[Line]) -> str:
            return self._scratch(owner, needed, self.ft_epochs, seed)

        return self._job("scratch", owner, seed, words, self._pretraining(owner, seed), run=True)

    def pretrain(self, setting: str, seed: int) -> Job:
        epochs = epochs_of(self.r.ssl_images, self.images)
        flags = setting_flags(SETTINGS[setting], epochs)
        # k-NN is measured afterwards: here it would count as the setting's compute.
        flags += f" --epochs {epochs} --knn_freq 0 --saveckp_freq 0"
        words = f"train_ssl.py {self.data} {BACKBONES[self.backbone]} {flags} --seed {seed}"
        return self._job("pretrain", setting, seed, words, run=True)

    def probe(self, setting: str, seed: int) -> Job:
        run = self._folder("pretrain", setting, seed)
        flags = f"{shlex.quote(str(run))} --random_weights false --raw_pixels false"
        needs = (
            self._name("pretrain", setting, seed),
            self._name("random", self.owner(setting), seed),
        )
        return self._job("pretrained", setting, seed, f"{probe_words(self.data)} {flags}", needs)

    def finetune(self, setting: str, seed: int) -> Job:
        run = shlex.quote(str(self._folder("pretrain", setting, seed)))
        words = self._stage_two(
            f"--pretrained_weights {run}", BACKBONES[self.backbone], self.ft_epochs, seed
        )
        needs = (self._name("pretrain", setting, seed),)
        return self._job("finetune", setting, seed, words, needs, run=True)

    def scratch_compute(self, setting: str, seed: int) -> Job:
        def words(needed: list[Line]) -> str:
            spent = "cpu_seconds" if needed[0]["machine"]["kind"] == "cpu" else "seconds"
            pretraining, finetuning = (line[spent] for line in needed)
            epochs = equal_compute_epochs(pretraining, finetuning, self.ft_epochs)
            return self._scratch(self.owner(setting), needed, epochs, seed)

        needs = tuple(self._name(what, setting, seed) for what in ("pretrain", "finetune"))
        return self._job("scratch_compute", setting, seed, words, needs, run=True)

    def _pretraining(self, owner: str | None, seed: int) -> tuple[str, ...]:
        """What a baseline needs: the run that chose its network."""
        return (self._name("pretrain", owner, seed),) if owner else ()

    def _scratch(self, owner: str | None, pretrained: list[Line], epochs: int, seed: int) -> str:
        start = f"--scratch {pretrained[0]['inherited']}" if owner else "--scratch"
        return self._stage_two(start, self.network(owner, pretrained), epochs, seed)

    def _stage_two(self, start: str, network: str, epochs: int, seed: int) -> str:
        flags = f"{network} {PLAIN} {RATE} --epochs {epochs} --eval_freq 100000"
        if self.r.label_percent < 100:
            batch = auto_finetune.batch_size(self.labelled)
            flags += f" --label_percent {self.r.label_percent:g} --label_draw {seed} --batch_size {batch}"
        return f"finetune.py {start} {self.data} {flags} --seed {seed}"

    def _name(self, what: str, setting: str | None, seed: int) -> str:
        return "-".join(filter(None, (self.set, self.backbone, what, setting, str(seed))))

    def _folder(self, what: str, setting: str | None, seed: int) -> Path:
        return Path(self.r.out) / "runs" / self._name(what, setting, seed)

    def _job(
        self,
        what: str,
        setting: str | None,
        seed: int,
        words: str | Callable[[list[Line]], str],
        needs: tuple[str, ...] = (),
        run: bool = False,
    ) -> Job:
        """run: whether the command makes a run folder."""
        folder = self._folder(what, setting, seed) if run else None
        end = ("--output_dir", str(folder)) if folder else ()

        def all_words(needed: list[Line]) -> Words:
            return (*shlex.split(words(needed) if callable(words) else words), *end)

        labels = labels_of(self.set, self.backbone, setting, seed, what)
        return Job(self._name(what, setting, seed), labels, all_words, needs, folder)


def jobs(r: Recipe) -> list[Job]:
    """In an order in which each comes after those that it needs. The cut sets are there."""
    found = []
    for name in r.sets:
        images = sum(1 for _ in set_folder(r, name).glob("train/*/*"))
        plans = [Plan(r, name, backbone, images) for backbone in r.backbones]
        found.append(raw_pixels(plans[0]))
        found += [job for plan in plans for job in plan.jobs()]
    return found


def raw_pixels(plan: Plan) -> Job:
    """Once for a set. A probe names a network, too: a small one, whose numbers are not used."""
    words = f"{probe_words(plan.data)} {BACKBONES['vit']} --random_weights true --seed 0"
    labels = labels_of(plan.set, None, None, None, "raw")
    return Job(f"{plan.set}-raw", labels, tuple(shlex.split(words)))


def probe_words(data: str) -> str:
    return f"eval_knn.py {data} --nb_knn {K} --linear true"


def set_folder(r: Recipe, name: str) -> Path:
    """Where the cut set lies."""
    return Path(r.out) / "sets" / name


def labels_of(
    set: str, backbone: str | None, setting: str | None, seed: int | None, what: str
) -> Line:
    """What a line holds for; None stands for all."""
    return {"set": set, "backbone": backbone, "setting": setting, "seed": seed, "what": what}


# The comparison


def judge(r: Recipe) -> dict:
    device = ranks.start(r.device)
    where = {**machine(device), "kind": device.type, "threads": r.threads}
    folder = Path(r.out)
    results = Results(folder / "results.jsonl")
    failed: dict[str, str] = {}
    planned: list[Job] = []
    if r.table:
        lines = [line for line in results.found.values() if line["seed"] in (None, *r.seeds)]
    else:
        check_budget(r)
        cut_sets(r)
        planned = jobs(r)
        line = partial(line_of, where)
        limits = {"streams": r.streams, "threads": r.threads}
        lines, failed = run_all(planned, results, **limits, line_of=line)
    networks = {setting: SETTINGS[setting].network for setting in r.settings}
    owners = {setting: owner for setting, owner in networks.items() if owner}
    print(table(rows(lines, r.sets, r.backbones, r.settings, owners)))
    raise_failed(failed, len(planned))
    return {**where, "streams": r.streams, "runs": len(lines), "results": str(results.path)}


def check_budget(r: Recipe) -> None:
    """ValueError where OUT holds results of another budget, which one table cannot hold."""
    names = ("cap", "test_cap", "ssl_images", "ft_images", "label_percent", "threads", "device")
    budget = {name: getattr(r, name) for name in names}
    file = Path(r.out) / "budget.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(json.dumps(budget) + "\n")
    before = json.loads(file.read_text())
    before.setdefault("label_percent", 100.0)  # written before there was the flag
    for name, value in budget.items():
        if before[name] != value:
            raise ValueError(
                f"{r.out} has results of --{name} {before[name]}, not {value}: choose another --out"
            )


def cut_sets(r: Recipe) -> None:
    """Make the folders of links, once all sets are known to be there."""
    missing = [name for name in r.sets if not (Path(r.datapath) / name).is_dir()]
    if missing:
        raise ValueError(f"--datapath {r.datapath} has no folder {missing[0]}: see --sets")
    for name in r.sets:
        source, target = Path(r.datapath) / name, set_folder(r, name)
        cap_set(source, target, train=r.cap, test=r.test_cap)


def main() -> None:
    cli.main(Recipe, judge)


if __name__ == "__main__":
    main()
