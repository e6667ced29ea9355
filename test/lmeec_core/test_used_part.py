"""What an exporter is given of a network: no more than a stage uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lmeec_core as lm
from lmeec_core.engine import step_calls
from lmeec_core.engine.used_part import used_part
from lmeec_core.model.stages import StageModule


class Two(nn.Module):
    """Has more than its forward pass uses, and one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 3), nn.Linear(3, 3)
        self.again = nn.Sequential(self.left)
        self.scale, self.spare = nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(3))
        self.register_buffer("mean", torch.rand(3))
        self.register_buffer("table", torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.left(x)) * self.scale - self.mean


def test_what_is_not_used_is_left_out_and_the_rest_is_shared() -> None:
    whole, x = Two(), torch.rand(2, 3)
    before = whole.state_dict().keys()
    part = used_part(whole, (x,))
    assert part.state_dict().keys() == {
        "scale", "mean", "left.weight", "left.bias", "again.0.weight", "again.0.bias"
    }  # fmt: skip
    assert part.left is part.again[0] and part.left.weight is whole.left.weight
    assert torch.equal(part(x), whole(x)) and whole.state_dict().keys() == before


def test_every_stage_of_a_network_computes_with_its_part(small: lm.LMEEC) -> None:
    total = sum(p.numel() for p in small.parameters())
    with torch.inference_mode():
        for call in step_calls(small):
            module, inputs = (
                StageModule(small, call.stage, call.options),
                call.example(torch.device("cpu")),
            )
            part = used_part(module, inputs)
            assert 0 < sum(p.numel() for p in part.parameters()) < total, call.stage
            for ours, wanted in zip(part(*inputs), module(*inputs), strict=True):
                assert torch.equal(ours, wanted)
