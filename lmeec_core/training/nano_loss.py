"""The small network's loss on simulated scenes: the paper's four terms and contrastive ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.compact import CompactLMEEC
from lmeec_core.compact.features import EmbeddedFeatures
from lmeec_core.compact.layers import masked_mean
from lmeec_core.compact.matching import MatchPrompt
from lmeec_core.config import Fusion
from lmeec_core.model import LMEEC, ViewFeatures
from lmeec_core.model.mask_decoder import Decoded
from lmeec_core.networks import build_model
from lmeec_core.preprocessing import normalise
from lmeec_core.training import losses
from lmeec_core.training.forward import ClipMemory, forward_frame, swap
from lmeec_core.training.losses import LossWeights
from lmeec_core.training.parts import ForegroundHead, share_parameters
from lmeec_core.training.recipe import Figures
from lmeec_core.training.stages import Stage

NANO_WEIGHTS = LossWeights(focal=2.0, dice=1.0, iou=0.5, presence=1.0, absent=1.0, empty=0.5)
"""``focal`` weights the loss at points around objects; absent ones count double for presence."""


class NanoLoss(nn.Module):
    """Runs clips through the network in both directions, as the stage requires; sums the losses.

    Args:
        model: the network; its config must have ``matching``.
        fusion: how the memory-aware and the view-specific feature are fused.
        bf16: compute in bfloat16.
    """

    def __init__(self, model: LMEEC, fusion: Fusion = "mv_moe", bf16: bool = True) -> None:
        super().__init__()
        self.model, self.fusion, self.bf16 = model, fusion, bf16
        self.foreground = ForegroundHead(model.config.hidden_dim)
        self._sized = {model.config.image_size: model}

    def sized(self, size: int) -> LMEEC:
        """The network at another image size, with shared weights."""
        if size not in self._sized:
            config = self.model.config.model_copy(update={"image_size": size})
            self._sized[size] = build_model(config).to(self.model.device)
            share_parameters(self.model, self._sized[size])
        return self._sized[size]

    def forward(self, stage: Stage, total: Tensor, *batch: Tensor) -> tuple[Tensor, Figures]:
        """The loss of B clips of T frames; rows are the first views, then the second views.

        Args:
            stage: see :class:`Stage`.
            total: number of objects in all clips of the step; this part's means are weighted by its
                share of them.
            batch: from :func:`lmeec_core.training.clips.stack`.

        Returns:
            the loss; and figures: its terms, IoU, presence accuracy, hit rate of the embedding.
        """
        images, masks, truth, _, regions, identity = batch
        share = masks.shape[1] * masks.shape[2] / total
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            terms, figures = self._terms(
                stage, _rows(images), _directions(masks), _directions(truth), _rows(regions),
                _directions(identity[None])[0],
            )  # fmt: skip
        terms = {name: share * value for name, value in terms.items()}
        reported = terms | {name: share * value for name, value in figures.items()}
        return losses.total(terms), {name: v.detach().float() for name, v in reported.items()}

    def _terms(
        self,
        stage: Stage,
        images: Tensor,
        masks: Tensor,
        truth: Tensor,
        regions: Tensor,
        identity: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        model = self.sized(stage.size)
        times, rows = images.shape[:2]
        views = model.encode_images(normalise(images.flatten(0, 1).float() / 255))
        sums: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        memory = ClipMemory(model, newest_first=bool(torch.rand(()) < 0.5))
        for t in range(times):
            query = views.map(lambda x, t=t: x.unflatten(0, (times, rows))[t])  # type: ignore[misc]
            given, true = masks[t].float(), truth[t].float()
            valid = given.flatten(2).any(dim=2).float()
            match, decoded = self._frame(model, stage, query, given, memory, times)
            terms = self._contrast(model, query, match, identity, given, true, valid, stage,
                                   figures)  # fmt: skip
            if decoded is not None:
                terms |= self._masks(decoded, true[:, : stage.sought], valid, figures, stage)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value / times
        kinds = regions.flatten(0, 1)[:, None] == regions.new_tensor([1, 2])[:, None, None]
        sums["foreground"] = stage.contrast * losses.foreground_loss(
            self.foreground(views).float(), F.avg_pool2d(kinds.float(), 2)
        )
        return sums, figures

    def _frame(
        self,
        model: LMEEC,
        stage: Stage,
        query: ViewFeatures,
        masks: Tensor,
        memory: ClipMemory,
        times: int,
    ) -> tuple[tuple[Tensor, ...], Decoded | None]:
        """Run one frame through the whole network, or through the embedding only."""
        if stage.kind == "contrast":
            return model.make_prompts(query, masks, swap(query)), None
        fusion: Fusion | None = self.fusion
        if times == 1 and torch.rand(()) >= 0.5:
            fusion = None
        step = forward_frame(
            model, query, swap(query), masks, stage.sought, memory if times > 1 else None, fusion
        )
        return step.match, step.decoded

    def _contrast(
        self,
        model: LMEEC,
        query: ViewFeatures,
        match: tuple[Tensor, ...],
        identity: Tensor,
        masks: Tensor,
        truth: Tensor,
        valid: Tensor,
        stage: Stage,
        figures: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        assert isinstance(match, MatchPrompt) and isinstance(model, CompactLMEEC)
        target = swap(query)
        assert isinstance(target, EmbeddedFeatures)
        small = F.avg_pool2d(truth, truth.shape[-1] // match.maps.shape[-1])
        weight = valid * (small.flatten(2).sum(dim=2) > 0)
        scale = model.matching.log_temperatures.exp()[0]
        with torch.autocast(masks.device.type, enabled=False):
            prototypes = model.describe(query, masks).prototype.flatten(0, 1)
            others = F.normalize(masked_mean(target.middle_embedding, small), dim=-1)
            near = losses.prototype_info_nce(
                prototypes, others.flatten(0, 1), identity.flatten(), weight.flatten(), scale
            )
            peak = match.maps[:, :, 0].flatten(2).argmax(dim=2, keepdim=True)
            hit = (small.flatten(2).gather(2, peak)[..., 0] > 0).float()
            figures["hit"] = losses.weighted_mean(hit, weight)
        return {
            "dense": 0.5 * stage.contrast
            * losses.dense_info_nce(match.maps[:, :, 0], small, scale, weight),
            "prototype": 0.3 * stage.contrast * near,
            "ranking": stage.contrast * losses.ranking_loss(match.maps[:, :, 0], small, valid),
            "propagation": stage.contrast
            * losses.propagation_loss(match.maps[:, :, 2], small, weight),
        }  # fmt: skip

    def _masks(
        self,
        decoded: Decoded,
        truth: Tensor,
        valid: Tensor,
        figures: dict[str, Tensor],
        stage: Stage,
    ) -> dict[str, Tensor]:
        target = F.avg_pool2d(truth, truth.shape[-1] // decoded.logits.shape[-1]).flatten(0, 1)
        counted = valid[:, : stage.sought].flatten()
        terms = losses.mask_losses(
            decoded.logits, decoded.predicted_iou, decoded.presence_logit, target, counted,
            NANO_WEIGHTS, at_points=True,
        )  # fmt: skip
        with torch.no_grad():
            present = (target.flatten(1).sum(dim=1) > 0).float()
            right = ((decoded.presence_logit > 0) == (present > 0)).float()
            figures["overlap"] = losses.weighted_mean(
                losses.mask_iou(decoded.logits, target), counted * present
            )
            figures["right"] = losses.weighted_mean(right, counted)
        return terms


def _rows(views: Tensor) -> Tensor:
    """(T, B, 2, ...) to (T, 2B, ...): the first views, then the second views."""
    return views.transpose(1, 2).flatten(1, 2)


def _directions(objects: Tensor) -> Tensor:
    """(T, B, 2N, ...) to (T, 2B, N, ...): objects given in the first views, then in the second."""
    return objects.unflatten(2, (2, -1)).transpose(1, 2).flatten(1, 2)
