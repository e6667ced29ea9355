"""Loads a dataset with LeRobot's own LeRobotDataset and trains one step of ACT on it.

    python .ci/lerobot_check.py <dataset>

Runs in an environment that has LeRobot, not this package: `make test-lerobot` makes one. The
policy learns where the objects will be: its state is the objects' centroids in the query camera,
its actions are the centroids of the next ticks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy

CHUNK = 4
"""Actions that the policy predicts."""


def main(root: Path) -> None:
    provenance = json.loads((root / "meta" / "provenance.json").read_text())
    query = next(c for c, source in provenance["masks"].items() if source.startswith("query"))
    plain = LeRobotDataset("local/check", root=root, video_backend="pyav")
    assert plain.num_episodes == plain.meta.total_episodes
    assert len(plain) == plain.meta.total_frames
    for index in (0, len(plain) // 2, len(plain) - 1):
        check_item(plain, index)
    aggregate_stats([plain.meta.stats, plain.meta.stats])  # refuses stats of other shapes

    key = f"observation.objects.{query}.centroid"
    ahead = {key: [n / plain.fps for n in range(CHUNK + 1)]}
    dataset = LeRobotDataset("local/check", root=root, delta_timestamps=ahead, video_backend="pyav")
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=False)
    loss, gradient = train_step(dataset, next(iter(loader)), query, key)
    print(
        f"LeRobot: {plain.num_episodes} episodes, {len(plain)} frames, "
        f"{len(plain.meta.camera_keys)} cameras; one step of ACT: loss {loss:.3f}, "
        f"gradient {gradient:.3f}"
    )


def check_item(dataset: LeRobotDataset, index: int) -> None:
    """What LeRobot makes of a tick has the types and shapes that info.json promises."""
    item = dataset[index]
    assert item["index"] == index and isinstance(item["task"], str)
    for key, feature in dataset.features.items():
        shape, dtype = tuple(feature["shape"]), feature["dtype"]
        value = item[key]
        if dtype == "video":
            assert value.shape == (shape[2], shape[0], shape[1]) and value.dtype == torch.float32
            assert value.min() >= 0 and value.max() <= 1
        elif dtype == "string":
            rles = json.loads(value)
            assert len(rles) == len(feature["names"])
            assert all(rle is None or set(rle) == {"size", "counts"} for rle in rles)
        else:
            assert value.shape == (() if shape == (1,) else shape), (key, value.shape, shape)
            assert str(value.dtype).removeprefix("torch.") == dtype, (key, value.dtype)
            assert np.isfinite(value.numpy()).all()


def train_step(dataset: LeRobotDataset, batch: dict, query: str, key: str) -> tuple[float, float]:
    """One step of a small ACT; returns the loss and the norm of its gradient."""
    camera = f"observation.images.{query}"
    places = batch[key].flatten(2)  # (B, CHUNK + 1, 2 N), pixels
    height, width, _ = dataset.features[camera]["shape"]
    places = places / torch.tensor([width, height]).repeat(places.shape[-1] // 2)
    config = ACTConfig(
        input_features={
            camera: PolicyFeature(FeatureType.VISUAL, tuple(batch[camera].shape[1:])),
            "observation.state": PolicyFeature(FeatureType.STATE, (places.shape[-1],)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (places.shape[-1],))},
        chunk_size=CHUNK, n_action_steps=CHUNK, pretrained_backbone_weights=None, dim_model=64,
        n_heads=2, dim_feedforward=64, n_encoder_layers=1, n_vae_encoder_layers=1, device="cpu",
    )  # fmt: skip
    policy = ACTPolicy(config)
    policy.train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    given = {
        camera: batch[camera],
        "observation.state": places[:, 0],
        "action": places[:, 1:],
        "action_is_pad": batch[f"{key}_is_pad"][:, 1:],
    }
    loss, _ = policy.forward(given)
    loss.backward()
    gradient = torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer.step()
    assert torch.isfinite(loss) and gradient > 0
    assert any((a != b).any() for a, b in zip(before, policy.parameters(), strict=True))
    return float(loss.detach()), float(gradient)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
