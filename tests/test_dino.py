"""The objective against the published one's numbers and against the double loop over pairs of views."""

import json

import numpy as np
import pytest
import torch

from multicrop.ssl.objectives.dino import Objective


@pytest.mark.parametrize("case", "abc")
def test_loss_gradient_and_centre_are_the_published_ones(golden, case):
    recorded = np.load(golden / "view_pred_loss.npz")
    config = json.loads(str(recorded[f"{case}_config"]))
    objective = Objective(config["out_dim"], config["student_temp"], config["center_momentum"])
    for call in range(3):
        student = (
            torch.tensor(recorded[f"{case}_student_{call}"])
            .unflatten(0, (config["ncrops"], -1))
            .requires_grad_()
        )
        teacher = torch.tensor(recorded[f"{case}_teacher_{call}"]).unflatten(0, (2, -1))
        torch.testing.assert_close(
            objective.centre, torch.tensor(recorded[f"{case}_center_before_{call}"][0])
        )
        loss = objective.loss(
            student,
            objective.targets(
                teacher, {"teacher_temp": float(recorded[f"{case}_teacher_temp_{call}"])}
            ),
        )
        loss.backward()
        objective.update(objective.observe(teacher))
        for ours, theirs in (
            (loss.detach(), recorded[f"{case}_loss_{call}"]),
            (student.grad.flatten(0, 1), recorded[f"{case}_grad_student_{call}"]),
            (objective.centre, recorded[f"{case}_center_after_{call}"][0]),
        ):
            torch.testing.assert_close(ours, torch.tensor(theirs), atol=1e-5, rtol=1e-5)


def test_closed_form_is_the_double_loop():
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 5, 32), torch.randn(3, 5, 32)
    objective = Objective(32)
    objective.centre.normal_()
    targets = objective.targets(teacher, {"teacher_temp": 0.05})
    pairs = [
        -(targets[g] * (student[v] / 0.1).log_softmax(-1)).sum(-1).mean()
        for g in range(3)
        for v in range(7)
        if v != g
    ]
    torch.testing.assert_close(objective.loss(student, targets), torch.stack(pairs).mean())


def test_half_precision_logits_give_a_float32_loss():
    logits = torch.randn(4, 2, 16, dtype=torch.bfloat16)
    objective = Objective(16)
    assert (
        objective.loss(logits, objective.targets(logits[:2], {"teacher_temp": 0.04})).dtype
        == torch.float32
    )
