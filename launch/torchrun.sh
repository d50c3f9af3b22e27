#!/usr/bin/env bash
# Run a script of this folder in several processes, on one machine or on many:
#
#   launch/torchrun.sh train_ssl.py --arch vit --dataset CIFAR10 ...
#   NPROC=2 launch/torchrun.sh train_ssl.py --device cpu ...
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 launch/torchrun.sh train_ssl.py ...     # and NODE_RANK=1 on the other node
#
# NPROC        processes on this machine (default: its GPUs, or 1)
# NNODES       machines (default: 1); with more, each runs this command with its own NODE_RANK, 0 to NNODES-1.
#              1:2, from one to two: where one is lost the others start again from the last checkpoint without it
#              (RESTARTS is 3 then), and one that comes is taken in; no NODE_RANK, and MASTER_ADDR must stay
# MASTER_ADDR  the machine with NODE_RANK 0, as the others reach it; MASTER_PORT a free port there (default: 29500)
# RESTARTS     how often all processes start again, from the last checkpoint, after one has failed (default: 0)
# PYTHON       the interpreter (default: .venv of this folder, else python)
#
# SIGTERM, SIGINT, SIGUSR1 or SIGHUP: the script finishes its step and saves. Exit code: 0 done; 75 stopped by a signal,
# the same command goes on from there; 2 something to mend, said in one line by the first rank that met it; 1 failed.
set -euo pipefail

usage() { echo "error: $1 (see the head of launch/torchrun.sh)" >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# -gt 0 ] || usage "which script? e.g. launch/torchrun.sh train_ssl.py"
script=$1; shift
[ -f "$script" ] || script=$root/$script
[ -f "$script" ] || usage "there is no script $script"

python=python
[ ! -x "$root/.venv/bin/python" ] || python=$root/.venv/bin/python
python=${PYTHON:-$python}
NPROC=${NPROC:-$("$python" -c 'import torch; print(torch.cuda.device_count() or 1)')}

if [ "${NNODES:-1}" = 1 ]; then
    where=(--standalone)  # picks a free port, so several jobs share a machine
elif [[ $NNODES == *:* ]]; then
    [ -n "${MASTER_ADDR:-}" ] || usage "NNODES=$NNODES needs MASTER_ADDR, a machine that stays to the end"
    RESTARTS=${RESTARTS:-3}
    where=(--nnodes "$NNODES" --rdzv-id multicrop --rdzv-backend c10d
           --rdzv-endpoint "$MASTER_ADDR:${MASTER_PORT:-29500}")
else
    [ -n "${MASTER_ADDR:-}" ] || usage "NNODES=$NNODES needs MASTER_ADDR, the machine with NODE_RANK 0"
    [ -n "${NODE_RANK:-}" ] || usage "NNODES=$NNODES needs NODE_RANK, this machine's number from 0"
    where=(--nnodes "$NNODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}")
fi

# torchrun would give each process one thread; the cores are shared out instead.
share=$(( $(getconf _NPROCESSORS_ONLN) / NPROC ))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( share > 0 ? share : 1 ))}

# torchrun turns every exit code into 1 and gives processes 30 s to stop. So signals go around it, straight to the
# processes (each leads a group of its own), and one that ends with 75, "resume me", ends well for torchrun and leaves a mark.
NOTES=$(mktemp -d)
trap 'rm -rf "$NOTES"' EXIT
# What processes left that were ended for a restart does not count.
PROCESS='rm -f "$NOTES/resume_me" "$NOTES/mend_me"
         echo $$ > "$NOTES/process.$LOCAL_RANK"
         trap : TERM INT USR1 HUP
         code=0; "$@" || code=$?
         [ $code != 75 ] || { touch "$NOTES/resume_me"; exit 0; }
         [ $code != 2 ] || touch "$NOTES/mend_me"
         exit $code'
export NOTES PROCESS

# Ranks of a restart would join the store of those before them and wait for each other for ever (torch's own stale keys)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=${TORCH_DISABLE_SHARE_RDZV_TCP_STORE:-1}

set -m  # torchrun in a group of its own: Ctrl-C reaches this shell alone
"$python" -m torch.distributed.run --nproc-per-node "$NPROC" --max-restarts "${RESTARTS:-0}" "${where[@]}" --no-python \
    bash -c 'eval "$PROCESS"' process "$python" "$script" "$@" &
torchrun=$!

pass_on() {
    local note started=0
    for note in "$NOTES"/process.*; do
        [ ! -e "$note" ] || { started=1; kill -TERM -- "-$(cat "$note")" 2>/dev/null || true; }
    done
    [ $started = 1 ] || kill -TERM $torchrun
}
trap pass_on TERM INT USR1 HUP

while :; do
    code=0
    wait $torchrun || code=$?
    kill -0 $torchrun 2>/dev/null || break  # else a signal ended the wait, not torchrun
done
[ $code != 0 ] || [ ! -e "$NOTES/resume_me" ] || code=75
[ $code != 1 ] || [ ! -e "$NOTES/mend_me" ] || code=2
exit $code
