"""Typed, validated configuration of the network and of the memory, and the presets.

Configurations are validated only here; the rest of the package relies on their types.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmeec_core.errors import InputError

Compression = Literal["average", "keep_first", "fifo", "iou", "cluster"]
Fusion = Literal["mv_moe", "add", "none"]
Precision = Literal["fp32", "bf16", "fp16"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
EngineName = Literal["auto", "eager", "cuda_graph", "onnxruntime", "openvino", "tensorrt"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
"""The backends that can run the network's stages, see :mod:`lmeec_core.engine`."""

RELEASE_POINTER_WINDOW = 16
"""Number of frames with object pointers, including the current one (SAM 2.1)."""


Model = TypeVar("Model", bound=BaseModel)


def validated(kind: type[Model], content: Mapping[str, Any], where: str) -> Model:
    """A configuration made from values that a user gave.

    Args:
        kind: the configuration's class.
        content: values by name.
        where: the source of the values (a file, an option), for the message.

    Raises:
        InputError: with ``where``, and the name, reason and value of the first five wrong values.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}, {shortened(e['input'])} given"
            for e in error.errors()[:5]
        ]
        raise InputError(f"{where}: " + "; ".join(lines)) from error


def shortened(value: object) -> str:
    """A value, shortened for a message: with aliases, a file's value may not fit into memory."""
    return reprlib.repr(value)[:200]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrunkConfig(_Frozen):
    """The Hiera trunk of the image encoder. The defaults are SAM 2.1 base-plus.

    Attributes:
        kind: tells the trunks apart in files.
        embed_dim: channels of the first stage; each later stage doubles them.
        num_heads: attention heads of the first stage; each later stage doubles them.
        stages: number of blocks in each of the four stages.
        global_attention_blocks: indices of the blocks that attend to the whole image.
        background_position_size: (height, width) of the learned background position embedding.
        window_spec: side of the attention windows in each stage, in tokens.
        patch_kernel: side of the first convolution's kernel, in pixels (odd).
        patch_stride: stride of the first convolution, in pixels. Features and masks have this
            stride; the memory works at four times this stride.
    """

    kind: Literal["hiera"] = "hiera"
    embed_dim: int = Field(112, ge=4)
    num_heads: int = Field(2, ge=1)
    stages: tuple[int, int, int, int] = (2, 3, 16, 3)
    global_attention_blocks: tuple[int, ...] = (12, 16, 20)
    background_position_size: tuple[int, int] = (14, 14)
    window_spec: tuple[int, int, int, int] = (8, 4, 14, 7)
    patch_kernel: int = Field(7, ge=3)
    patch_stride: int = Field(4, ge=2)

    @model_validator(mode="after")
    def _check(self) -> TrunkConfig:
        if min(self.stages) < 1:
            raise ValueError(f"trunk.stages: {self.stages} given, every stage needs a block")
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"trunk.num_heads: {self.num_heads} does not divide embed_dim {self.embed_dim}"
            )
        if self.patch_kernel % 2 == 0 or self.patch_stride not in (2, 4):
            raise ValueError(
                f"trunk: patch_kernel {self.patch_kernel} must be odd and patch_stride "
                f"{self.patch_stride} must be 2 or 4"
            )
        return self


class ConvTrunkConfig(_Frozen):
    """A small convolutional trunk for CPUs: residual stages at strides 2, 4, 8 and 16.

    Attributes:
        kind: tells the trunks apart in files.
        channels: channels at strides 2, 4, 8 and 16.
        blocks: residual blocks at strides 4, 8 and 16.
        attention_blocks: transformer blocks over the whole image at stride 16.
        attention_heads: heads of those; divides the last of ``channels``.
        middle_dim: width of the neck's features at stride 4.
    """

    kind: Literal["conv"] = "conv"
    channels: tuple[int, int, int, int] = (32, 48, 96, 192)
    blocks: tuple[int, int, int] = (2, 3, 2)
    attention_blocks: int = Field(2, ge=0)
    attention_heads: int = Field(6, ge=1)
    middle_dim: int = Field(64, ge=8)

    @property
    def patch_stride(self) -> int:
        """Pixels per cell of the finest features and of the masks."""
        return 2

    @model_validator(mode="after")
    def _check(self) -> ConvTrunkConfig:
        if self.channels[3] % self.attention_heads or self.channels[3] % 4:
            raise ValueError(
                f"trunk.channels: {self.channels[3]} at stride 16 given, a multiple of 4 and of "
                f"attention_heads {self.attention_heads} expected"
            )
        return self


class MatchingConfig(_Frozen):
    """A contrastive embedding of image locations, with which a small network matches objects.

    Attributes:
        dim: width of the embedding.
        content_dim: additional width of the memory attention's queries and keys.
    """

    dim: int = Field(64, ge=8)
    content_dim: int = Field(64, ge=8, multiple_of=4)


class RefinementConfig(_Frozen):
    """Masks that follow the edges of the image (:mod:`lmeec_core.guided_filter`).

    Attributes:
        radius: of the filter's windows, in cells of the mask logits.
        epsilon: variance of colour (RGB in 0 .. 1) below which a window counts as flat.
        limit: mask logits are limited to plus and minus this first.
    """

    radius: int = Field(3, ge=1, le=64)
    epsilon: float = Field(2e-4, gt=0.0)
    limit: float = Field(2.0, gt=0.0)


class ModelConfig(_Frozen):
    """The network. The defaults are the released LM-EEC (SAM 2.1 base-plus, 480 pixels).

    Attributes:
        image_size: side S of the square model input, in pixels; a multiple of 8 patch strides.
        trunk: the image encoder's trunk.
        hidden_dim: width of the features, tokens and object pointers.
        memory_dim: width of the memory features; divides hidden_dim.
        memory_slots: rows of the temporal embedding (7 = the current frame and six past ones).
        memory_layers: layers of the memory attention.
        memory_feedforward: width of the memory attention's feed-forward part.
        fuser_layers: convolution blocks of the memory encoder.
        decoder_layers: two-way layers of the mask decoder.
        decoder_heads: attention heads of the mask decoder.
        decoder_feedforward: width of the mask decoder's feed-forward part.
        memory_pool: stored frames are averaged over squares of this many tokens a side, which
            makes the attention over the banks cheaper by its square; divides the grid. Above 1
            only with matching.
        matching: the contrastive embedding; None: no embedding (the release). With it, the network
            is a :class:`lmeec_core.compact.CompactLMEEC`.
        refinement: refines returned masks at the image's edges; None: no refinement (the release).
            The memory stores the logits before refinement.
    """

    image_size: int = Field(480, ge=32, le=4096)
    trunk: TrunkConfig | ConvTrunkConfig = TrunkConfig()
    hidden_dim: int = Field(256, ge=32)
    memory_dim: int = Field(64, ge=8)
    memory_slots: int = Field(7, ge=2)
    memory_layers: int = Field(4, ge=1)
    memory_feedforward: int = Field(2048, ge=8)
    fuser_layers: int = Field(2, ge=1)
    decoder_layers: int = Field(2, ge=1)
    decoder_heads: int = Field(8, ge=1)
    decoder_feedforward: int = Field(2048, ge=8)
    memory_pool: int = Field(1, ge=1)
    matching: MatchingConfig | None = None
    refinement: RefinementConfig | None = None

    @property
    def memory_stride(self) -> int:
        """Pixels per token of the memory (16 in the release)."""
        return self.trunk.patch_stride * 4

    @property
    def grid(self) -> int:
        """Side of the token grid; the memory has grid * grid tokens (P)."""
        return self.image_size // self.memory_stride

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Tokens and channels of a frame in a memory bank."""
        width = self.memory_dim + (self.matching.dim if self.matching else 0)
        return (self.grid // self.memory_pool) ** 2, width

    @property
    def mask_size(self) -> int:
        """Side of the mask logits (S/4 in the release)."""
        return self.image_size // self.trunk.patch_stride

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        step = self.trunk.patch_stride * 8
        if self.image_size % step:
            raise ValueError(f"image_size: {self.image_size} given, a multiple of {step} expected")
        if isinstance(self.trunk, TrunkConfig):
            self._check_windows(self.trunk)
        if self.grid % self.memory_pool:
            raise ValueError(
                f"memory_pool: {self.memory_pool} does not divide the grid of {self.grid} tokens"
            )
        if self.memory_pool > 1 and self.matching is None:
            raise ValueError(
                f"memory_pool: {self.memory_pool} given without matching, 1 expected: only the "
                "compact network pools its memory"
            )
        if self.hidden_dim % self.memory_dim or self.hidden_dim % 8:
            raise ValueError(
                f"hidden_dim: {self.hidden_dim} given, a multiple of 8 and of memory_dim "
                f"{self.memory_dim} expected"
            )
        if (self.hidden_dim // 2) % self.decoder_heads:
            raise ValueError(
                f"decoder_heads: {self.decoder_heads} does not divide half of hidden_dim "
                f"{self.hidden_dim}"
            )
        return self

    def _check_windows(self, trunk: TrunkConfig) -> None:
        if self.mask_size % trunk.window_spec[0]:
            raise ValueError(
                f"image_size: {self.image_size} gives {self.mask_size} tokens a side, a multiple "
                f"of the first window {trunk.window_spec[0]} expected"
            )
        for stage in (1, 2, 3):
            if sum(trunk.stages[:stage]) in trunk.global_attention_blocks:
                continue
            # A stage's first block pools within windows of the stage before.
            side, window = self.mask_size >> (stage - 1), trunk.window_spec[stage - 1]
            if -(-side // window) != -(-(side // 2) // (window // 2)):
                raise ValueError(
                    f"image_size: {self.image_size} does not fit the trunk: {side} tokens a side "
                    f"in windows of {window} cannot be halved before stage {stage + 1}"
                )


class MemoryConfig(_Frozen):
    """The long-term memory of a tracker (paper section 3.5).

    Attributes:
        compression: how a bank with one frame more than its capacity is reduced. ``keep_first`` is
            the released code's behaviour, with which released checkpoints were evaluated;
            ``average`` is the paper's equation 10; ``fifo``, ``iou`` and ``cluster`` are the
            alternatives in the paper's Table 6.
        capacity: frames in each bank (M; 6 in the release, Table 5).
        query_bank: keep the past frames of the query view (Table 4).
        target_bank: keep the past frames of each target view (Table 4).
        fusion: ``mv_moe`` (the method), ``add`` (the paper's base model) or ``none`` (the
            memory-aware feature alone; Table 2).
        iou_threshold: with ``iou``, a frame is kept only if its predicted IoU exceeds this.
    """

    compression: Compression = "keep_first"
    capacity: int = Field(6, ge=1, le=64)
    query_bank: bool = True
    target_bank: bool = True
    fusion: Fusion = "mv_moe"
    iou_threshold: float = Field(0.3, ge=0.0, le=1.0)


PRESETS: dict[str, ModelConfig] = {
    "base_plus": ModelConfig(),
    "sam2_tiny": ModelConfig(
        image_size=1024,
        trunk=TrunkConfig(
            embed_dim=96,
            num_heads=1,
            stages=(1, 2, 7, 2),
            global_attention_blocks=(5, 7, 9),
            background_position_size=(7, 7),
        ),
    ),
    "sam2_small": ModelConfig(
        image_size=1024,
        trunk=TrunkConfig(
            embed_dim=96,
            num_heads=1,
            stages=(1, 2, 11, 2),
            global_attention_blocks=(7, 10, 13),
            background_position_size=(7, 7),
        ),
    ),
    "sam2_large": ModelConfig(
        image_size=1024,
        trunk=TrunkConfig(
            embed_dim=144,
            stages=(2, 6, 36, 4),
            global_attention_blocks=(23, 33, 43),
            background_position_size=(7, 7),
            window_spec=(8, 4, 16, 8),
        ),
    ),
    "nano": ModelConfig(
        image_size=288,
        trunk=ConvTrunkConfig(),
        hidden_dim=128,
        memory_dim=64,
        memory_layers=2,
        memory_feedforward=512,
        decoder_layers=2,
        decoder_heads=4,
        decoder_feedforward=256,
        memory_pool=2,
        matching=MatchingConfig(),
        refinement=RefinementConfig(),
    ),
    "mini": ModelConfig(
        image_size=128,
        trunk=TrunkConfig(
            embed_dim=16,
            num_heads=1,
            stages=(1, 2, 3, 1),
            global_attention_blocks=(2, 4),
            background_position_size=(7, 7),
            window_spec=(8, 4, 7, 7),
        ),
    ),
}
"""Named networks: ``base_plus`` is the released LM-EEC, ``nano`` a small one for CPUs, ``mini`` a
tiny one for tests; ``sam2_tiny``, ``sam2_small`` and ``sam2_large`` are SAM 2.1's other sizes,
whose checkpoints have no MV-MoE."""


def preset(name: str) -> ModelConfig:
    """Return the named network configuration.

    Raises:
        InputError: there is no such preset; the message lists the names.
    """
    if name not in PRESETS:
        raise InputError(f"preset: {name!r} given, one of {sorted(PRESETS)} expected")
    return PRESETS[name]
