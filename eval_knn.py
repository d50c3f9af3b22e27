"""Probe: weighted k-NN accuracy of frozen features, of one checkpoint, of many, or of all that a run has kept.

    python eval_knn.py runs/ssl                               # the curve over a run
    python eval_knn.py runs/a/checkpoint.pt runs/b --nb_knn 10 20 --linear
    torchrun --nproc-per-node 2 eval_knn.py runs/ssl --dataset CIFAR10 --datapath data

Raw pixels and random weights of the same architecture come first: better than both is what training has to be.
The same as `multicrop knn`. What happens, top to bottom: commands/knn.py; every flag: config/knn.py.
"""

import sys

from multicrop.__main__ import main

if __name__ == "__main__":
    main(["knn", *sys.argv[1:]], program="eval_knn.py")
