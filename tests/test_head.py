import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from multicrop.ssl.head import Head

VARIANTS = {
    "default": {},
    "norm_free": {"norm_last_layer": False},
    "one_layer": {"layers": 1},
    "two_layer": {"layers": 2},
    "bn": {"batch_norm": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_names_and_trainable_parameters_are_the_published_ones(golden, variant):
    file = golden / "mlp_head.safetensors"
    tensors, about = load_file(file), safe_open(file, "pt").metadata()
    c = json.loads(about["config"])
    head = Head(
        c["in_dim"],
        c["out_dim"],
        hidden=c["hidden_dim"],
        bottleneck=c["bottleneck_dim"],
        **VARIANTS[variant],
    )
    prefix = f"{variant}.param."
    head.load_state_dict(
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    )
    trainable = {name for name, p in head.named_parameters() if p.requires_grad}
    assert trainable == set(json.loads(about[f"{variant}.trainable"]))
    out = head.eval()(tensors["input"])
    torch.testing.assert_close(out, tensors[f"{variant}.output_eval"], atol=1e-5, rtol=0)
    if variant == "bn":  # recorded after the evaluation
        torch.testing.assert_close(
            head.train()(tensors["input"]), tensors["bn.output_train"], atol=1e-5, rtol=0
        )
        for name, after in tensors.items():
            if name.startswith("bn.param_after_train."):
                ours = head.state_dict()[name.removeprefix("bn.param_after_train.")]
                torch.testing.assert_close(ours, after, atol=1e-5, rtol=0)


def test_size_is_the_published_one():
    count = sum(p.numel() for p in Head(192, 1024).parameters())
    assert count == 755_968
    assert sum(p.numel() for p in Head(384, 1024).parameters()) == 854_272
    assert sum(p.numel() for p in Head(192, 1024, batch_norm=True).parameters()) == 755_968 + 2048
