"""Stage one: pretrain a backbone on unlabelled images by multi-crop self-distillation.

    python train_ssl.py                                       # the embedded data set on this machine
    python train_ssl.py --dataset images --datapath unlabelled --image_size 64 --output_dir runs/a
    torchrun --nproc-per-node 2 train_ssl.py --arch vit --dataset CIFAR10 --datapath data --download

The same as `multicrop pretrain`. What happens, top to bottom: commands/pretrain.py; every flag: config/pretrain.py.
"""

import sys

from multicrop.__main__ import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]], program="train_ssl.py")
