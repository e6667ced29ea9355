"""Stage calls (a stage with the shapes of its inputs), and those of a tracker's step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lmeec_core.config import RELEASE_POINTER_WINDOW, MemoryConfig
from lmeec_core.model import LMEEC
from lmeec_core.model.stages import (
    DecoderOptions,
    Stage,
    StageOptions,
    StageSpec,
)


@dataclass(frozen=True)
class StageCall:
    """A stage with the shapes of its inputs: what an engine builds a function for.

    Attributes:
        stage: its name.
        options: the stage's options, fixed like the shapes.
        shapes: shape of each input tensor.
        dtypes: type of each input tensor.
        spec: the stage's row in the network's table; says which inputs have a batch dimension.
    """

    stage: Stage
    options: StageOptions
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    spec: StageSpec = field(compare=False, repr=False)

    @classmethod
    def of(cls, spec: StageSpec, options: StageOptions, inputs: tuple[Tensor, ...]) -> StageCall:
        """The call for these inputs."""
        shapes = tuple(tuple(x.shape) for x in inputs)
        return cls(spec.name, options, shapes, tuple(x.dtype for x in inputs), spec)

    @property
    def batch(self) -> int:
        """The batch size."""
        return self.shapes[0][0]

    @property
    def length(self) -> int | None:
        """The size that the network does not fix (memory tokens, side of a mask), if any."""
        for spec, shape in zip(self.spec.inputs, self.shapes, strict=True):
            if self.spec.varying in spec.shape:
                return shape[spec.shape.index(self.spec.varying) - len(spec.shape)]
        return None

    def has_batch(self, index: int) -> bool:
        """Whether an input has a batch dimension."""
        return self.spec.inputs[index].has_batch(self.shapes[index])

    def with_batch(self, batch: int) -> StageCall:
        """The same call with another batch size."""
        shapes = tuple(
            (batch, *shape[1:]) if self.has_batch(i) else shape
            for i, shape in enumerate(self.shapes)
        )
        return replace(self, shapes=shapes)

    def for_graph(self, batch: int) -> StageCall:
        """The call that an exported graph computes: this batch size, float inputs in float32."""
        dtypes = tuple(torch.float32 if d.is_floating_point else d for d in self.dtypes)
        return replace(self.with_batch(batch), dtypes=dtypes)

    def example(self, device: torch.device, seed: int = 0) -> tuple[Tensor, ...]:
        """Random, plausible inputs: normally distributed, mapped into the input's range if it has
        one (bool: all true). The same seed gives the same inputs."""
        generator = torch.Generator().manual_seed(seed)
        inputs = []
        for spec, shape, dtype in zip(self.spec.inputs, self.shapes, self.dtypes, strict=True):
            if dtype is torch.bool:
                value = torch.ones(shape, dtype=dtype)
            else:
                value = torch.randn(shape, generator=generator)
                value = spec.in_range(value) if spec.in_range else value
            inputs.append(value.to(device, dtype))
        return tuple(inputs)


def step_calls(
    model: LMEEC, objects: int = 1, targets: int = 1, memory: MemoryConfig | None = None
) -> list[StageCall]:
    """Every call in a tracker's step with a full memory, in order.

    Args:
        model: the network.
        objects: N objects. targets: K target views.
        memory: the tracker's memory settings; None for the defaults.
    """
    memory = memory or MemoryConfig()
    config, pairs = model.config, objects * targets
    sizes = model.sizes()
    split = config.hidden_dim // config.memory_dim
    pointer_tokens = (RELEASE_POINTER_WINDOW - 1) * split
    frames = memory.capacity * (memory.query_bank + memory.target_bank)
    stored_tokens, _ = config.stored_shape
    full = frames * stored_tokens + pointer_tokens
    view = model.stages["memory_attention"].options()
    uses: list[tuple[Stage, int, StageOptions, dict[str, int]]] = [
        ("image_encoder", 1 + targets, StageOptions(), {}),
        ("memory_encoder", objects, StageOptions(), {"m": config.image_size}),
        ("target_tokens", targets, StageOptions(), {}),
        ("memory_attention", pairs, view, {"L": sizes["P"]}),
        ("memory_attention", pairs, model.stored_options(pointer_tokens), {"L": full}),
        ("decoder", pairs, DecoderOptions(memory.fusion), {}),
    ]
    if memory.target_bank:
        uses.append(("memory_encoder", pairs, StageOptions(), {"m": config.mask_size}))
    kinds = {"float32": torch.float32, "bool": torch.bool, "computed": model.computed}
    calls = []
    for stage, batch, options, own in uses:
        spec = model.stages[stage]
        shapes = tuple(tensor.resolve(batch, sizes | own) for tensor in spec.inputs)
        dtypes = tuple(kinds[tensor.dtype] for tensor in spec.inputs)
        calls.append(StageCall(stage, options, shapes, dtypes, spec))
    return calls
