"""The network's stages: a table of their inputs and outputs.

Engines, exporter, CUDA graphs and benchmark use it; a network's table is :attr:`LMEEC.stages`.
Sizes in shapes: g is the side of the token grid, P = g * g tokens, C hidden_dim, M memory_dim, S
image_size, s = 4g mask_size. Sizes that vary by call: L memory tokens, m the side of a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from torch import Tensor, nn

from lmeec_core.config import Fusion, ModelConfig

Stage = Literal["image_encoder", "target_tokens", "memory_attention", "decoder", "memory_encoder"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""Names of all stages; engines are reported in this order."""
Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class StageOptions:
    """Arguments that vary between calls but are not tensors; fixed in an exported graph."""

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in vars(self).items())


@dataclass(frozen=True)
class MemoryAttentionOptions(StageOptions):
    """Options of memory attention.

    Attributes:
        num_pointer_tokens: number of object pointer tokens at the end of the memory.
    """

    num_pointer_tokens: int = 0


@dataclass(frozen=True)
class DecoderOptions(StageOptions):
    """Options of the decoder.

    Attributes:
        fusion: see :class:`lmeec_core.MemoryConfig`.
    """

    fusion: Fusion = "mv_moe"


class StageRunner(Protocol):
    """Computes stages with some engine."""

    def __call__(
        self, stage: Stage, options: StageOptions, inputs: tuple[Tensor, ...], /
    ) -> Outputs:
        """Compute one stage, with inputs and outputs as in the network's table."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a stage.

    Attributes:
        name: name of the tensor.
        shape: its sizes after the batch dimension, by the names above.
        batched: whether it always has a batch dimension. Otherwise it is shared by the batch,
            unless a call passes it with one more dimension.
        dtype: float32 or bool; "computed" is float32, or the half type of the network's precision
            (normalised features and residual sums stay in float32).
        in_range: maps normally distributed numbers to plausible values.
    """

    name: str
    shape: tuple[str, ...]
    batched: bool = True
    dtype: Literal["float32", "computed", "bool"] = "computed"
    in_range: Callable[[Tensor], Tensor] | None = None

    def has_batch(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape has a batch dimension."""
        return self.batched or len(shape) > len(self.shape)

    def resolve(self, batch: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in numbers."""
        own = tuple(sizes[name] for name in self.shape)
        return (batch, *own) if self.batched else own


def _one_use(options: StageOptions, inputs: tuple[Tensor, ...]) -> str:
    return ""


@dataclass(frozen=True)
class StageSpec:
    """The inputs and outputs of a stage.

    Attributes:
        name: name of the stage; :class:`LMEEC` computes it in the method ``compute_<name>``.
        inputs, outputs: its tensors, in order.
        options: the class of its options.
        bfloat16: whether an engine may compute all of it in bfloat16, because it takes much of the
            time and contains no logits.
        varying: name of the size that varies by call, if any.
        use: says which of the stage's uses in a step a call is; "" if there is only one use.
    """

    name: Stage
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: type[StageOptions] = StageOptions
    bfloat16: bool = False
    varying: str | None = None
    use: Callable[[Any, tuple[Tensor, ...]], str] = _one_use


def network_sizes(config: ModelConfig) -> dict[str, int]:
    """The sizes that a configuration fixes, by name."""
    grid, dim = config.grid, config.hidden_dim
    return {
        "g": grid, "2g": 2 * grid, "4g": 4 * grid, "P": grid * grid,
        "C": dim, "C/4": dim // 4, "C/8": dim // 8, "M": config.memory_dim,
        "S": config.image_size, "s": config.mask_size, "RGB": 3,
    }  # fmt: skip


def _view_or_memory(options: MemoryAttentionOptions, inputs: tuple[Tensor, ...]) -> str:
    return "memory" if options.num_pointer_tokens else "view"


def _query_or_target(options: StageOptions, inputs: tuple[Tensor, ...]) -> str:
    top, mask = inputs[:2]
    return "target" if mask.shape[-1] == 4 * top.shape[-1] else "query"


FINE = TensorSpec("fine", ("C/8", "4g", "4g"))
MIDDLE = TensorSpec("middle", ("C/4", "2g", "2g"))
TOP = TensorSpec("top", ("C", "g", "g"))
IMAGES = TensorSpec("images", ("RGB", "S", "S"), dtype="float32")
TOKENS = TensorSpec("tokens", ("P", "C"), dtype="float32")
POSITION = TensorSpec("position", ("L", "M"), batched=False)
CONDITIONED = TensorSpec("conditioned", ("P", "C"), dtype="float32")
PRESENCE = TensorSpec("presence_logit", (), dtype="float32")

IMAGE_ENCODER = StageSpec("image_encoder", (IMAGES,), (FINE, MIDDLE, TOP), bfloat16=True)
TARGET_TOKENS = StageSpec("target_tokens", (TOP,), (TOKENS,))
MEMORY_ATTENTION = StageSpec(
    "memory_attention",
    (TOKENS, TensorSpec("memory", ("L", "M")), POSITION),
    (CONDITIONED,),
    MemoryAttentionOptions,
    bfloat16=True,
    varying="L",
    use=_view_or_memory,
)
DECODER = StageSpec(
    "decoder",
    (
        TensorSpec("memory_aware", ("P", "C"), dtype="float32"),
        TensorSpec("view_specific", ("P", "C"), dtype="float32"),
        TensorSpec("has_memory", (), dtype="bool"),
        FINE,
        MIDDLE,
    ),
    (
        TensorSpec("logits", ("s", "s"), dtype="float32"),
        TensorSpec("predicted_iou", (), dtype="float32"),
        PRESENCE,
        TensorSpec("pointer", ("C",)),
    ),
    DecoderOptions,
)
MEMORY_ENCODER = StageSpec(
    "memory_encoder",
    (TOP, TensorSpec("mask", ("m", "m"), dtype="float32"), PRESENCE),
    (TensorSpec("memory", ("P", "M")),),
    varying="m",
    use=_query_or_target,
)


def table(*specs: StageSpec) -> dict[Stage, StageSpec]:
    """Specifications by stage name, in the order of :data:`STAGES`."""
    by_name = {spec.name: spec for spec in specs}
    return {name: by_name[name] for name in STAGES}


RELEASED_STAGES = table(IMAGE_ENCODER, TARGET_TOKENS, MEMORY_ATTENTION, DECODER, MEMORY_ENCODER)
"""The released network's table."""


class StageModule(nn.Module):
    """A stage as a module, for exporters: positional tensors in, a tuple of tensors out."""

    def __init__(self, model: nn.Module, stage: Stage, options: StageOptions) -> None:
        super().__init__()
        self.model, self.stage, self.options = model, stage, options

    def forward(self, *inputs: Tensor) -> Outputs:
        """See the network's method ``compute_<stage>``."""
        return self.model.compute(self.stage, self.options, inputs)  # type: ignore[operator, no-any-return]
