"""A straightforward multi-crop DINO step, the yardstick of train_step.py: what one writes first, from the paper.

timm's VisionTransformer as it comes (fused attention), the double loop over pairs of views, one parameter at a time in
clipping and EMA, AdamW with its defaults. Same network sizes, same arithmetic; tests/test_benchmarks.py holds the two
steps against each other.
"""

import copy

import timm
import torch
import torch.nn as nn
import torch.nn.functional as F

from multicrop.ssl.head import Head


class PlainStep:
    def __init__(self, recipe, backbone: nn.Module, device: torch.device):
        self.r = recipe
        size = {"embed_dim": backbone.embed_dim, "depth": len(backbone.blocks)}
        size |= {
            "num_heads": backbone.blocks[0].attn.num_heads,
            "patch_size": backbone.patch_embed.patch_size,
        }
        vit = timm.create_model(
            "vit_tiny_patch16_224", num_classes=0, img_size=recipe.backbone.image_size, mlp_ratio=2,
            dynamic_img_size=True, drop_path_rate=recipe.backbone.drop_path_rate, **size,
        )  # fmt: skip
        self.backbone, self.head = (
            vit.to(device),
            Head(vit.num_features, recipe.method.out_dim).to(device),
        )
        self.teacher = (
            copy.deepcopy(nn.ModuleList([self.backbone, self.head])).requires_grad_(False).eval()
        )
        self.centre = torch.zeros(1, recipe.method.out_dim, device=device)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=1e-4, weight_decay=0.04)

    def parameters(self):
        return [
            p for p in [*self.backbone.parameters(), *self.head.parameters()] if p.requires_grad
        ]

    def __call__(self, globals_, locals_, cast: torch.dtype | None = None) -> float:
        with torch.autocast(globals_.device.type, cast, enabled=cast is not None):
            with torch.no_grad():
                targets = self.teacher[1](self.teacher[0](torch.cat(list(globals_))))
            features = [
                self.backbone(torch.cat(list(views))) for views in (globals_, locals_) if len(views)
            ]
            logits = self.head(torch.cat(features))
            loss = self.loss(
                logits.float(), targets.float(), len(globals_), len(globals_) + len(locals_)
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.clip()
        self.optimizer.step()
        self.follow()
        self.centre = self.centre * 0.9 + targets.float().mean(0, keepdim=True) * 0.1
        return loss.item()

    def loss(self, student, teacher, G: int, V: int):
        student = (student / 0.1).chunk(V)
        teacher = F.softmax((teacher - self.centre) / 0.04, dim=-1).detach().chunk(G)
        total, pairs = 0, 0
        for g, q in enumerate(teacher):
            for v in range(V):
                if v != g:
                    total += torch.sum(-q * F.log_softmax(student[v], dim=-1), dim=-1).mean()
                    pairs += 1
        return total / pairs

    def clip(self) -> None:
        for p in self.parameters():
            factor = self.r.optimisation.clip_grad / (p.grad.norm(2).item() + 1e-6)
            if factor < 1:
                p.grad.mul_(factor)

    @torch.no_grad()
    def follow(self) -> None:
        students = [*self.backbone.parameters(), *self.head.parameters()]
        for student, teacher in zip(students, self.teacher.parameters(), strict=True):
            teacher.mul_(0.996).add_(0.004 * student)
