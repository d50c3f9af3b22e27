import pytest
import torch

from multicrop.engine.precision import autocast_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "expected"), [("auto", None), ("fp32", None), ("bf16", torch.bfloat16)]
)
def test_types_on_a_cpu(name, expected):
    assert autocast_dtype(name, CPU) == expected


def test_fp16_needs_a_gpu():
    with pytest.raises(ValueError, match="--precision fp16 needs a CUDA device, not cpu"):
        autocast_dtype("fp16", CPU)


@pytest.mark.parametrize(("chip", "warns"), [("AVX2", True), ("AVX512", False)])
def test_emulated_bf16_is_said(chip, warns, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: chip)
    autocast_dtype("bf16", CPU)
    autocast_dtype("fp32", CPU)
    assert capsys.readouterr().err.count("emulates") == int(warns)
