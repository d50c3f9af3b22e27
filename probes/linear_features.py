"""What DINO's linear probe sees of a network: the class tokens of its last blocks, and the mean patch beside them.

Caron et al. 2021 (arXiv 2104.14294), appendix F.2, and eval_linear.py of their code: for small ViTs the class tokens of
the last 4 blocks, for base ones that of the last block and its mean patch token. B images, N tokens, D width.
"""

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn

PUBLISHED_BLOCKS = 4  # of ViT-S
MEAN = "mean"


class LinearFeatures(nn.Module):
    """Images (B, C, h, w) -> features (B, dim) of the last `blocks` blocks, the oldest first; 0: the network's own.

    Each block's tokens go through the network's final norm. Of each the class token is taken; where the network's own
    features are the mean of its patches, and the class token has learnt nothing, that mean. average_patches: beside
    them the mean patch token of the last block. A network without class tokens has its own features alone.

    ValueError for more blocks than there are, or for blocks or patches of a network without class tokens.
    """

    def __init__(self, network: nn.Module, blocks: int, average_patches: bool = False) -> None:
        super().__init__()
        if (blocks or average_patches) and not has_tokens(network):
            raise ValueError(
                "its blocks have no class token: only the features themselves are left to probe"
            )
        depth = block_count(network)
        if blocks > depth:
            raise ValueError(f"it has {depth} blocks, and not {blocks}")
        self.of_patches = getattr(network, "pooling", "class") == MEAN
        if average_patches and self.of_patches:
            raise ValueError("its features are the mean patch already")
        self.network, self.blocks = network, blocks
        self.average_patches = average_patches and blocks > 0
        width = cast(int, network.dim)
        self.dim = width * (max(1, blocks) + self.average_patches)

    @property
    def name(self) -> str:
        """What they are, for people."""
        if not self.blocks:
            return "features"
        token = "mean patches" if self.of_patches else "class tokens"
        name = f"{token} of the last {self.blocks} blocks"
        if self.blocks == 1:
            name = f"{token} of the last block"
        return f"{name} and its mean patch" if self.average_patches else name

    def forward(self, images: Tensor) -> Tensor:
        if not self.blocks:
            return self.network(images)
        tokens = last_tokens(self.network, images, self.blocks)
        features = [self._of_block(prefix, patches) for prefix, patches in tokens]
        if self.average_patches:
            features.append(tokens[-1][1].mean(1))
        return torch.cat(features, dim=1)

    def _of_block(self, prefix: Tensor, patches: Tensor) -> Tensor:
        return patches.mean(1) if self.of_patches else prefix[:, 0]


def has_tokens(network: nn.Module) -> bool:
    """Whether every block's class and patch tokens can be had: of our ViT and DeiT, and of timm's like them."""
    return hasattr(network, "intermediate") or _gives_prefix_tokens(network)


def block_count(network: nn.Module) -> int:
    blocks = getattr(network, "blocks", ())
    return len(blocks)


def last_tokens(network: Any, images: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    """For each of the last blocks, the oldest first, its prefix (B, P, D) and patches (B, N - P, D), normalised."""
    if hasattr(network, "intermediate"):
        prefix = network.num_prefix_tokens
        outputs = network.intermediate(images, count)
        return [(tokens[:, :prefix], tokens[:, prefix:]) for tokens in outputs]
    outputs = network.forward_intermediates(
        images,
        indices=count,
        norm=True,
        output_fmt="NLC",
        return_prefix_tokens=True,
        intermediates_only=True,
    )
    return [(prefix, patches) for patches, prefix in outputs]


def _gives_prefix_tokens(network: Any) -> bool:
    forward = getattr(network, "forward_intermediates", None)
    if forward is None or not getattr(network, "num_prefix_tokens", 0):
        return False
    return "return_prefix_tokens" in inspect.signature(forward).parameters
