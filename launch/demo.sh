#!/usr/bin/env bash
# The main job on the embedded data set, from nothing, on a CPU: pretrain, k-NN before and after, then finetune from the
# checkpoint and from scratch at the same budget, a page about each stage, and one table at the end. Two runs at a time
# with a thread each, since networks of this size gain little from a second one.
#
#   launch/demo.sh                    # under 4 minutes on 2 cores, and one or two to install
#   SEEDS="0 1 2" launch/demo.sh      # three times that, and mean and spread
#
# OUT     folder of the runs (default: runs/demo)
# VENV    where the environment lives (default: .venv of this folder)
# PYTHON  an interpreter that already has the requirements: nothing is installed then
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/_environment.sh report
out=${OUT:-runs/demo}
mkdir -p "$out"
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT  # nothing goes on behind a demo that stopped
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

for seed in ${SEEDS:-0}; do
    run=$out/seed$seed
    finetune=("$PYTHON" finetune.py --recipe recipes/shapes_finetune.yaml --seed "$seed")

    "${finetune[@]}" --scratch --output_dir "$run/scratch" > "$out/scratch.$seed.json" 2> "$out/scratch.$seed.log" &
    scratch=$!
    "$PYTHON" train_ssl.py --recipe recipes/shapes_ssl.yaml --seed "$seed" --output_dir "$run/ssl" > "$out/ssl.$seed.json"
    wait "$scratch" || { cat "$out/scratch.$seed.log" >&2; exit 1; }

    "$PYTHON" eval_knn.py "$run/ssl/checkpoint.pt" --nb_knn 20 > "$out/knn.$seed.json" 2> "$out/knn.$seed.log" &
    knn=$!
    "${finetune[@]}" --pretrained_weights "$run/ssl" --output_dir "$run/pretrained" > "$out/pretrained.$seed.json"
    wait "$knn" || { cat "$out/knn.$seed.log" >&2; exit 1; }
done
"$PYTHON" -m multicrop report "$run/ssl" --images 500 > "$out/report.json" 2> "$out/report.log" &
page=$!
"$PYTHON" -m multicrop report "$run/pretrained" --images 500 > /dev/null
wait "$page" || { cat "$out/report.log" >&2; exit 1; }

"$PYTHON" - "$out" ${SEEDS:-0} <<'TABLE'
import json
import statistics
import sys
from pathlib import Path

out, seeds = Path(sys.argv[1]), sys.argv[2:]


def results(name):
    return [json.loads((out / f"{name}.{seed}.json").read_text().splitlines()[-1]) for seed in seeds]


def line(what, values):
    spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    print(f"{what:<44} {statistics.mean(values):6.2f}{spread}")


def probed(name):
    """The k-NN of each seed's row of this name."""
    accuracies = []
    for result in results("knn"):
        (row,) = (row for row in result["results"] if row["checkpoint"].startswith(name))
        accuracies.append(row["top1"]["20"])
    return accuracies


print(f"\nshapes, accuracy on the test images in percent, seeds {' '.join(seeds)}")
line("k-NN of raw pixels (k = 20)", probed("raw pixels"))
line("k-NN of random weights", probed("random weights"))
line("k-NN after pretraining", [result["results"][-1]["top1"]["20"] for result in results("knn")])
line("scratch, last epoch", [result["test_top1"] for result in results("scratch")])
line("finetuned from the checkpoint, last epoch", [result["test_top1"] for result in results("pretrained")])
print("A drawn set shows that the chain works and that pretraining helps; choose backbones and recipes on your own images.")
print(f"open in a browser: {out}/seed{seeds[-1]}/ssl/report.html and pretrained/report.html beside it")
TABLE
