"""The loss of a batch of clips from takes, as one module for distributed training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmeec_core.config import Fusion
from lmeec_core.model import LMEEC, ViewFeatures
from lmeec_core.preprocessing import normalise
from lmeec_core.training import losses
from lmeec_core.training.forward import ClipMemory, Step, forward_frame
from lmeec_core.training.losses import LossWeights
from lmeec_core.training.recipe import Figures

TERMS = ("focal", "dice", "iou", "presence")


class ClipLoss(nn.Module):
    """Runs clips through the network, frame by frame with memory, and sums the four losses.

    It is a single module because DistributedDataParallel needs a single forward call. Losses are
    computed at image size and summed over frames and objects, as in SAM 2's training.

    Args:
        model: the network.
        weights: weights of the four terms.
        capacity: frames in each first-in-first-out bank.
        fusion: how the memory-aware and the view-specific feature are fused.
        bf16: compute in bfloat16; weights, losses and logits stay in float32.
        recompute: encode frame by frame, and again for the backward pass; less memory, more time.
    """

    def __init__(
        self,
        model: LMEEC,
        weights: LossWeights,
        capacity: int = 6,
        fusion: Fusion = "mv_moe",
        bf16: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.weights, self.fusion = model, weights, fusion
        self.capacity, self.bf16, self.recompute = capacity, bf16, recompute

    def forward(
        self,
        stage: object,
        total: Tensor,
        images: Tensor,
        masks: Tensor,
        truth: Tensor,
        counts: Tensor,
    ) -> tuple[Tensor, Figures]:
        """The loss of B clips of T frames with n objects.

        Args:
            stage: unused; there is only one.
            total: divides the sums over objects.
            images: uint8 (T, B, 2, 3, S, S), the query view first.
            masks, truth: bool (T, B, n, S, S) in the query and in the target view.
            counts: (T, B, n), 1 where an object counts.

        Returns:
            the loss; and its terms, the sum of IoU (``overlap``) over the ``present`` objects, and
            the number of correct presence verdicts (``right``) among all ``counted``.
        """
        device = images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            views = self._encode(images)
            memory = ClipMemory(self.model, self.capacity)
            n = masks.shape[2]
            steps = [
                forward_frame(self.model, query, target, masks[t].float(), n, memory, self.fusion)
                for t, (query, target) in enumerate(views)
            ]
        terms = dict.fromkeys(TERMS, images.new_zeros((), dtype=torch.float32))
        figures: Figures = {}
        for step, true, valid in zip(steps, truth, counts, strict=True):
            found, seen = self._frame(step, true, valid, total)
            terms = {name: terms[name] + found[name] for name in TERMS}
            figures = {name: value + figures.get(name, 0) for name, value in seen.items()}
        return losses.total(terms), {n: v.detach() for n, v in terms.items()} | figures

    def _encode(self, images: Tensor) -> list[tuple[ViewFeatures, ViewFeatures]]:
        """Query and target views of every frame, B of each."""
        times, rows = images.shape[:2]

        def encode(frames: Tensor) -> ViewFeatures:  # uint8 (V, 3, S, S)
            return self.model.encode_images(normalise(frames.float() / 255))

        def part(views: ViewFeatures, *index: int) -> ViewFeatures:
            return views.map(lambda x: x.unflatten(0, (-1, rows, 2))[index[0], :, index[1]])

        if not self.recompute:
            views = encode(images.flatten(0, 2))
            return [(part(views, t, 0), part(views, t, 1)) for t in range(times)]
        frames = [checkpoint(encode, images[t].flatten(0, 1), use_reentrant=False) for t in
                  range(times)]  # fmt: skip
        return [(part(frame, 0, 0), part(frame, 0, 1)) for frame in frames]

    def _frame(
        self, step: Step, truth: Tensor, counts: Tensor, total: Tensor
    ) -> tuple[dict[str, Tensor], Figures]:
        decoded = step.decoded
        target, valid = truth.flatten(0, 1).float(), counts.flatten()
        size = target.shape[-2:]
        logits = F.interpolate(decoded.logits[:, None], size=size, mode="bilinear")[:, 0]
        terms = losses.mask_losses(
            logits, decoded.predicted_iou, decoded.presence_logit, target, valid, self.weights,
            total,
        )  # fmt: skip
        with torch.no_grad():
            present = (target.flatten(1).amax(dim=1) > 0).float()
            right = ((decoded.presence_logit > 0) == (present > 0)).float()
            overlap = losses.mask_iou(logits, target)
            seen = valid * present
            figures = {
                "overlap": (overlap * seen).sum(), "present": seen.sum(),
                "right": (right * valid).sum(), "counted": valid.sum(),
            }  # fmt: skip
        return terms, figures
