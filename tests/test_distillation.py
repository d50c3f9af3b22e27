"""Logit distillation against recorded numbers, and what standardisation promises."""

import pytest
import torch
import torch.nn.functional as F
from locality_guidance import COMMITTED, SHARED, close, part, recorded

from multicrop.supervised.distillation import (
    LogitDistillation,
    decoupled,
    hard,
    soft,
    split_by_label,
    standardise,
)

TEMPERATURES = (1.0, 2.0, 3.0, 4.0)


@pytest.fixture(scope="module")
def tensors():
    return recorded(COMMITTED / "logit_kd.npz")


def check(tensors, ours, loss: str, gradient: str | None = None, tolerance: float = 1e-5) -> None:
    """`ours` of the recorded student against a recorded loss and, where there is one, its gradient."""
    student = tensors["student"].clone().requires_grad_()
    value = ours(student)
    torch.testing.assert_close(value, tensors[loss], rtol=1e-6, atol=tolerance)
    if gradient in tensors:
        value.backward()
        close(student.grad, tensors[gradient])


def check_soft(tensors, temperature: float) -> None:
    for name, standardised in (("plain", False), ("zscore", True)):
        group = f"{name}/T{temperature:g}"
        options = {"temperature": temperature, "standardised": standardised}
        one = LogitDistillation(weight=1.0, **options)
        check(
            tensors,
            lambda s, one=one: one(s, tensors["teacher"]),
            f"{group}/loss_unit",
            f"{group}/grad_unit",
        )
        for weight in (9, 10) if standardised else ():
            more = LogitDistillation(weight=weight, **options)
            check(
                tensors, lambda s, more=more: more(s, tensors["teacher"]), f"{group}/loss_w{weight}"
            )


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft(tensors, temperature):
    check_soft(tensors, temperature)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_with_every_gradient(shared_golden, temperature):
    check_soft(recorded(shared_golden / SHARED / "logit_kd.safetensors"), temperature)


@pytest.mark.parametrize("temperature", [1, 2])
def test_the_original_code_divides_by_the_number_of_classes_too(recordings, tensors, temperature):
    """Recorded in a file of its own, which is a part of another one here."""
    own = recordings / SHARED / "logit_kd_original.safetensors"
    found = recorded(own) if own.is_file() else part(tensors, "original/") | tensors
    group = f"soft/T{temperature}"
    check(
        found,
        lambda s: soft(s, found["teacher"], temperature) / 100,
        f"{group}/loss",
        f"{group}/grad",
    )


def test_standardised_logits(tensors):
    for name in ("student", "teacher"):
        for floor in (0.0, 0.1):
            close(standardise(tensors[name], floor), tensors[f"z_{name}"])


def test_hard(tensors):
    check(tensors, lambda s: hard(s, tensors["teacher"]), "hard/loss", "hard/grad")


def test_published_sum_with_cross_entropy(tensors):
    labels, distillation = tensors["combined/labels"], LogitDistillation()
    check(tensors, lambda s: F.cross_entropy(s, labels), "combined/ce")
    check(
        tensors,
        lambda s: 0.5 * F.cross_entropy(s, labels) + distillation(s, tensors["teacher"]),
        "combined/total",
        "combined/grad",
    )


@pytest.mark.parametrize(("group", "temperature"), [("plain_T4", 4.0), ("zscore_T2", 2.0)])
def test_decoupled(tensors, group, temperature):
    labels = tensors["combined/labels"]
    options = {"temperature": temperature, "standardised": group.startswith("zscore")}
    distillation = LogitDistillation("decoupled", weight=1.0, **options)
    check(
        tensors,
        lambda s: distillation(s, tensors["teacher"], labels),
        f"dkd/{group}/loss_alpha1_beta8",
        f"dkd/{group}/grad",
    )


@pytest.mark.parametrize("classes", [4, 2])
def test_few_classes(tensors, classes):
    group = part(tensors, f"classes{classes}/")
    check(
        group,
        lambda s: LogitDistillation(weight=1.0)(s, group["teacher"]),
        "loss",
        "grad" if classes == 4 else None,
        1e-6,
    )


def test_two_classes_leave_no_gradient(tensors):
    student = tensors["classes2/student"].clone().requires_grad_()
    LogitDistillation(weight=1.0)(student, tensors["classes2/teacher"]).backward()
    assert student.grad.abs().max() < 1e-6


def collapsed(tensors, floor: float) -> tuple[torch.Tensor, torch.Tensor]:
    student = torch.zeros(8, 100, requires_grad=True)
    loss = LogitDistillation(weight=1.0, floor=floor)(student, tensors["teacher"])
    loss.backward()
    return loss.detach(), student.grad


def test_a_student_of_zeros_has_the_published_gradients_without_a_floor(tensors):
    loss, gradient = collapsed(tensors, floor=0.0)
    close(loss, tensors["collapsed/loss"])
    torch.testing.assert_close(
        gradient, tensors["collapsed/grad"], rtol=1e-4, atol=0.01
    )  # the largest is 9e4


def test_a_student_of_zeros_has_moderate_gradients_by_default(tensors):
    loss, gradient = collapsed(tensors, floor=0.1)
    close(loss, tensors["collapsed/loss"])
    assert gradient.isfinite().all() and 0 < gradient.abs().max() < 0.1
    torch.testing.assert_close(
        gradient, 1e-6 * tensors["collapsed/grad"], rtol=1e-4, atol=1e-8
    )  # 1e-7 / 0.1


def test_the_floor_acts_below_it_only():
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(standardise(logits, 0.1), standardise(logits, 0.0))
    faint = 1e-3 * logits
    close(standardise(faint, 0.1), (faint - faint.mean(-1, keepdim=True)) / 0.1, 1e-6)
    for scale in (0.0, 1e-30, 1e-3, 1.0, 1e4):
        x = (scale * logits).requires_grad_()
        (standardise(x) * logits).sum().backward()
        assert x.grad.isfinite().all()


def test_shift_and_scale_of_a_student_do_not_matter(tensors):
    distillation = LogitDistillation(weight=1.0)
    close(
        distillation(3.7 * tensors["student"] + 0.9, tensors["teacher"]),
        tensors["zscore/T2/loss_unit"],
    )
    close(tensors["invariance/loss_T2_rescaled_student"], tensors["zscore/T2/loss_unit"])


def test_a_student_like_its_teacher_costs_nothing(tensors):
    teacher, labels = tensors["teacher"], tensors["combined/labels"]
    close(soft(teacher, teacher, 2.0), torch.tensor(0.0))
    close(decoupled(teacher, teacher, labels, 2.0, 1.0, 8.0), torch.tensor(0.0))


def test_split_parts_with_the_label_first():
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    own, rest = split_by_label(logits, torch.tensor([0, 1, 2]))
    assert rest.tolist() == [[2.0, 3.0], [4.0, 6.0], [7.0, 8.0]]
    close(own.softmax(1)[:, 0], logits.softmax(1).diagonal())


@pytest.mark.parametrize("kind", ["soft", "hard", "decoupled"])
def test_sharp_logits_under_autocast_stay_finite(kind):
    logits = 1e3 * torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    student, teacher = logits.bfloat16().requires_grad_(), logits.flip(1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        for standardised in (False, True):
            distillation = LogitDistillation(kind, standardised=standardised)
            loss = distillation(student, teacher, torch.arange(4))
            (gradient,) = torch.autograd.grad(loss, student)
            assert loss.dtype == torch.float32 and loss.isfinite() and gradient.isfinite().all()


def test_the_teacher_gets_no_gradient(tensors):
    student, teacher = (tensors[name].clone().requires_grad_() for name in ("student", "teacher"))
    LogitDistillation()(student, teacher).backward()
    assert teacher.grad is None and student.grad is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "warm"}, "no logit distillation is called 'warm'; take soft, hard or decoupled"),
        ({"temperature": 0}, "the temperature is 0; it must be above 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        LogitDistillation(**options)


def test_logits_that_do_not_fit():
    with pytest.raises(
        ValueError, match=r"\(2, 10\), the teacher's \(2, 100\).* a teacher of the same classes"
    ):
        LogitDistillation()(torch.zeros(2, 10), torch.zeros(2, 100))
    with pytest.raises(ValueError, match="needs one label per image: turn mixing off"):
        LogitDistillation("decoupled")(torch.zeros(2, 10), torch.zeros(2, 10))
    with pytest.raises(ValueError, match="at least two"):
        LogitDistillation()(torch.zeros(2, 1), torch.zeros(2, 1))
