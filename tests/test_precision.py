import pytest
import torch
from torch._inductor import config as inductor

from multicrop.engine.precision import autocast_dtype, choose_algorithms

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def settings():
    """What torch computes by is as before after the test."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    inductor.deterministic = False


@pytest.mark.parametrize(
    ("name", "expected"), [("auto", None), ("fp32", None), ("bf16", torch.bfloat16)]
)
def test_types_on_a_cpu(name, expected):
    assert autocast_dtype(name, CPU) == expected


@pytest.mark.parametrize("name", ["fp16", "tf32"])
def test_what_needs_a_gpu(name):
    with pytest.raises(ValueError, match=f"--precision {name} needs a CUDA device, not cpu"):
        autocast_dtype(name, CPU)


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16", "fp16", "auto"])
def test_tf32_is_for_the_asking_and_said(name, settings, monkeypatch, capsys):
    """torch's default is TF32 in convolutions and none in products, which nobody asked for."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    allowed = name == "tf32"
    torch.set_float32_matmul_precision("highest" if allowed else "high")
    torch.backends.cudnn.allow_tf32 = not allowed
    dtype = autocast_dtype(name, CUDA)
    expected = {"bf16": torch.bfloat16, "fp16": torch.float16, "auto": torch.bfloat16}
    assert dtype == expected.get(name)
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == allowed
    assert ("TF32 is off" in capsys.readouterr().err) != allowed
    autocast_dtype(name, CUDA)
    assert not capsys.readouterr().err  # once


def test_a_cpu_leaves_tf32_alone(settings, capsys):
    torch.set_float32_matmul_precision("high")
    autocast_dtype("fp32", CPU)
    assert torch.get_float32_matmul_precision() == "high" and not capsys.readouterr().err


def test_deterministic_does_not_fill_what_is_not_written_yet(settings, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    choose_algorithms(CUDA, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize(
    ("device", "deterministic", "before", "expected"),
    [
        (CUDA, False, False, True),
        (CUDA, True, True, False),
        (CPU, False, False, False),
        (CPU, True, True, True),
    ],
)
def test_cudnn_times_its_convolutions_unless_they_must_be_the_same(
    device, deterministic, before, expected, settings, monkeypatch
):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "as before")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    choose_algorithms(device, deterministic)
    assert torch.backends.cudnn.benchmark is expected
    wanted = deterministic and device == CUDA
    assert torch.are_deterministic_algorithms_enabled() == inductor.deterministic == wanted


@pytest.mark.parametrize(("chip", "warns"), [("AVX2", True), ("AVX512", False)])
def test_emulated_bf16_is_said(chip, warns, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: chip)
    autocast_dtype("bf16", CPU)
    autocast_dtype("fp32", CPU)
    assert capsys.readouterr().err.count("emulates") == int(warns)
