"""Six optimizer steps of the published loop by our parts: guidance, logit distillation, and a CNN alone.

Two epochs over the same three batches of four, at the rates of epochs 0 and 1 of 4.
"""

from types import SimpleNamespace

import torch
from locality_guidance import COMMITTED, SHARED, close, part, recorded

from multicrop import registry
from multicrop.commands._networks import fill_backbone
from multicrop.engine import optim
from multicrop.engine.parameter_groups import parameter_groups
from multicrop.engine.schedule import epoch_cosine
from multicrop.supervised.classifier import Classifier
from multicrop.supervised.distillation import LogitDistillation
from multicrop.supervised.guidance import Guidance
from multicrop.supervised.loss import Loss
from multicrop.supervised.mixing import Mix, apply
from multicrop.supervised.objectives.cross_entropy import Objective
from multicrop.supervised.pairs import pair_maps
from multicrop.supervised.teacher import Teacher
from multicrop.supervised.train_module import TrainModule
from multicrop.weights import pretrained

LOG = "log_cls_inter_logit_total_lr_top1err_top5err"
CNN = {"arch": "resnet", "image_size": 32, "depth": 8}
DEIT = {
    "arch": "deit", "image_size": 32, "patch_size": 8, "embed_dim": 36, "num_layers": 2, "num_heads": 3,
    "drop_path_rate": 0.0,
}  # fmt: skip
TRANSFORMER = {"peak": 5e-4, "end": 5e-6, "warmup": 1, "floor": 5e-5}


def network(tensors: dict[str, torch.Tensor], arch: str, folder, **options) -> Classifier:
    """A classifier with weights of the published names, by the users' route."""
    torch.save({"model_state": tensors}, folder / "model.pyth")
    file = pretrained.read(folder / "model.pyth")
    backbone = registry.backbone(arch, **options)
    fill_backbone(backbone, file, arch, strict=True)
    model = Classifier(backbone, 10)
    model.load_heads(file.head, file.second_head)
    return model


def taught_by(tensors, folder, names: tuple[str, ...]) -> Teacher:
    return Teacher(
        network(part(tensors, "teacher_before/"), folder=folder, **CNN),
        16,
        names,
        batch_norm="batch",
    )


def six_steps(tensors, learner, loss, teacher, build, rates: dict, decay: float) -> None:
    """Every recorded loss and rate on the way."""
    exempt = ("cls_token", "pos_embed", "dist_token")
    optimizer = build(
        parameter_groups(learner.train(), exempt=exempt, backbone=learner.model.backbone)
    )
    for step, recorded_step in enumerate(tensors[LOG]):
        lr = epoch_cosine(step // 3, 4, **rates)
        batch = apply(tensors[f"batch/{step % 3}/input"], tensors[f"batch/{step % 3}/label"], Mix())
        taught = teacher(batch.images) if teacher else SimpleNamespace(logits=None, maps=None)
        total, found = loss(learner(batch.images, taught.maps or None), batch, taught.logits)
        optim.set_rates(optimizer, lr, decay)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        zero = torch.zeros(())
        ours = [*(found.get(name, zero) for name in ("ce", "guidance", "kd")), total]
        torch.testing.assert_close(torch.stack(ours).detach(), recorded_step[:4], rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.tensor(lr), recorded_step[4], rtol=1e-6, atol=0)


def check_weights(ours: Classifier, tensors, who: str, folder, **options) -> None:
    """The recorded weights after the steps: of those recorded nearly all have changed.

    A key's bias changes no softmax. What gradient it has is rounding, which Adam scales up, and is not compared.
    """
    before = part(tensors, f"{who}_before/")
    first = network(before, folder=folder, **options).state_dict()
    last = network(before | part(tensors, f"{who}_after/"), folder=folder, **options).state_dict()
    changed = [name for name in first if not torch.equal(first[name], last[name])]
    assert len(changed) >= len(part(tensors, f"{who}_after/")) * 0.9
    for name in changed:
        own, theirs = ours.state_dict()[name].float(), last[name].float()
        if name.endswith("qkv.bias"):
            (query, _, value), (other_query, _, other_value) = own.chunk(3), theirs.chunk(3)
            own, theirs = torch.cat([query, value]), torch.cat([other_query, other_value])
        close(own, theirs, 1e-4)


def guided(tensors, folder) -> None:
    model = network(part(tensors, "student_before/"), folder=folder, **DEIT)
    teacher = taught_by(tensors, folder, ("s1", "s2", "s3"))
    names, _ = pair_maps(model.backbone, teacher.backbone, ["blocks.0", "blocks.1", "blocks.1"])
    guidance = Guidance([36, 36, 36], [16, 32, 64])
    guidance.projections.load_state_dict(part(tensors, "proj_before/"))
    learner = TrainModule(model, guidance, names)
    six_steps(
        tensors,
        learner,
        Loss(Objective(0.0)),
        teacher,
        lambda g: optim.build_optimizer("adamw", g),
        TRANSFORMER,
        0.05,
    )
    check_weights(model, tensors, "student", folder, **DEIT)
    for name, theirs in part(tensors, "proj_after/").items():
        close(guidance.projections.state_dict()[name], theirs, 1e-4)
    check_weights(teacher.network, tensors, "teacher", folder, **CNN)


def test_guidance(tmp_path):
    guided(recorded(COMMITTED / "steps_guidance.npz"), tmp_path)


def test_guidance_with_every_weight(shared_golden, tmp_path):
    guided(recorded(shared_golden / SHARED / "steps_guidance.safetensors"), tmp_path)


def test_logit_distillation(shared_golden, tmp_path):
    """With the published standardisation, which has no floor."""
    tensors = recorded(shared_golden / SHARED / "steps_logit_kd.safetensors")
    options = DEIT | {"arch": "deit_tiny_distilled"}
    model = network(part(tensors, "student_before/"), folder=tmp_path, **options)
    teacher = taught_by(tensors, tmp_path, ())
    loss = Loss(
        Objective(0.0), LogitDistillation(temperature=2.0, weight=10.0, floor=0.0), ce_weight=0.5
    )
    learner = TrainModule(model, distils=True)
    six_steps(
        tensors,
        learner,
        loss,
        teacher,
        lambda g: optim.build_optimizer("adamw", g),
        TRANSFORMER,
        0.05,
    )
    check_weights(model, tensors, "student", tmp_path, **options)
    check_weights(teacher.network, tensors, "teacher", tmp_path, **CNN)


def test_a_cnn_alone(shared_golden, tmp_path):
    tensors = recorded(shared_golden / SHARED / "steps_cnn_sgd.safetensors")
    model = network(part(tensors, "student_before/"), folder=tmp_path, **CNN)
    six_steps(
        tensors, TrainModule(model), Loss(Objective(0.0)), None,
        lambda groups: optim.build_optimizer("sgd", groups, 0.9, True), {"peak": 0.1, "end": 0.0}, 5e-4,
    )  # fmt: skip
    check_weights(model, tensors, "student", tmp_path, **CNN)
