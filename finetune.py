"""Stage two: train a classifier from a pretrained backbone, or from scratch, or evaluate one.

    python finetune.py --pretrained_weights runs/ssl          # the embedded data set on this machine
    python finetune.py --scratch
    python finetune.py --eval --pretrained_weights runs/finetune/best.pt
    torchrun --nproc-per-node 2 finetune.py --dataset CIFAR10 --datapath data --pretrained_weights runs/ssl

The same as `multicrop finetune`. What happens, top to bottom: commands/finetune.py; every flag: config/finetune.py.
"""

import sys

from multicrop.__main__ import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]], program="finetune.py")
