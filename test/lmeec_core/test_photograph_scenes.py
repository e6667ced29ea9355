"""Training scenes made of photographs."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lmeec_core.errors import InputError
from lmeec_core.simulation.photographs import CAMERAS, list_images, main, make_scene
from lmeec_core.training.scene_clips import SceneClips, SceneKey
from lmeec_core.training.stages import CPU_PAIRS_STAGES
from lmeec_core.training.store import SceneStore

SIZE = 96


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """backgrounds/: one blue photograph; cutouts/: a red disc, and a light effect to leave out."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("backgrounds", "cutouts/cartoon"):
        (folder / name).mkdir(parents=True)
    blue = np.full((200, 300, 3), (255, 0, 0), np.uint8)
    cv2.imwrite(str(folder / "backgrounds/blue.png"), blue)
    disc = np.zeros((80, 80, 4), np.uint8)
    cv2.circle(disc, (40, 40), 38, (0, 0, 255, 255), -1)
    cv2.imwrite(str(folder / "cutouts/disc.png"), disc)
    disc[..., 3] //= 3
    cv2.imwrite(str(folder / "cutouts/glow.png"), disc)
    cv2.imwrite(str(folder / "cutouts/cartoon/other.png"), disc)
    return folder


def images(files: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    return list_images([files / "backgrounds"]), list_images([files / "cutouts"], ["cartoon"])


def test_masks_are_where_the_objects_are(files: Path) -> None:
    backgrounds, cutouts = images(files)
    assert [path.name for path in cutouts] == ["disc.png", "glow.png"]
    covered = plain = 0
    for seed in range(6):
        scene = make_scene(seed, backgrounds, cutouts, 2, SIZE)
        assert scene.rgb.shape == (2, len(CAMERAS), SIZE, SIZE, 3)
        assert set(scene.kinds) == {"disc"}, "the glow is no object"
        inside = scene.labels > 0
        assert scene.labels.max() <= len(scene.names)
        red = scene.rgb[..., 0].astype(int) > 60
        assert not (red & ~_grown(inside)).any(), "an object without its label"
        blue = (scene.rgb[..., 2].astype(int) > 60) & (scene.rgb[..., :2] < 60).all(axis=-1)
        assert blue[~_grown(inside)].all()
        covered, plain = covered + inside.sum(), plain + (~inside).sum()
    assert covered > 0.02 * plain


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask of each image and two pixels around it, where an object's edge is half opaque."""
    kernel = np.ones((5, 5), np.uint8)
    flat = mask.reshape(-1, SIZE, SIZE).astype(np.uint8)
    return np.stack([cv2.dilate(one, kernel) for one in flat]).reshape(mask.shape) > 0


def test_the_seed_decides(files: Path) -> None:
    first, again, other = (make_scene(seed, *images(files), 2, SIZE) for seed in (3, 3, 4))
    assert (first.rgb == again.rgb).all() and (first.labels == again.labels).all()
    assert first.rgb.tobytes() != other.rgb.tobytes()


def test_objects_are_shared_and_hidden(files: Path) -> None:
    shared = missing = 0
    for seed in range(8):
        scene = make_scene(seed, *images(files), 1, SIZE)
        seen = [set(np.unique(view)) - {0} for view in scene.labels[0]]
        shared += len(seen[0] & seen[1])
        missing += len(seen[0] ^ seen[1])
    assert shared > 8 and missing > 8


def test_scenes_are_shards_to_train_on(files: Path, tmp_path: Path) -> None:
    command = [str(tmp_path), "--backgrounds", str(files / "backgrounds"), "--cutouts",
               str(files / "cutouts"), "--seeds", "0:2", "--size", "96", "--frames", "3",
               "--workers", "1"]  # fmt: skip
    assert main(command) == 0
    made = sorted(tmp_path.glob("*.npy"))
    assert [path.name for path in made] == [f"photographs_0000000{i}.npy" for i in (0, 1)]
    assert json.loads(made[0].with_suffix(".json").read_text())["steps"] == [0, 1, 2]
    before = [path.stat().st_mtime_ns for path in made]
    assert main(command) == 0
    assert [path.stat().st_mtime_ns for path in made] == before, "existing scenes are kept"

    store = SceneStore(tmp_path, 2)
    assert store.refresh() == 2 and store.run == 3
    stage = CPU_PAIRS_STAGES[0]
    drawn = [SceneClips(0)[SceneKey(n, (store.paths[0],) * 3, stage)] for n in range(8)]
    clips = [one.clip for one in drawn if one.clip is not None]
    assert not any(one.errors for one in drawn)
    assert any(clip.truth.any() for clip in clips)


def test_bad_folders_are_named(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}: no image .*jpg"):
        list_images([files, tmp_path])  # one folder of several
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png: not readable as an image"):
        make_scene(0, list_images([tmp_path]), images(files)[1], 1, SIZE)
    with pytest.raises(InputError, match="none has an alpha channel"):
        make_scene(0, *(2 * [list_images([files / "backgrounds"])]), 1, SIZE)
    command = [str(tmp_path / "out"), "--backgrounds", str(tmp_path), "--cutouts",
               str(files / "cutouts"), "--seeds", "5:6", "--workers", "1"]  # fmt: skip
    assert main(command) == 1
    assert "seed 5: InputError" in capsys.readouterr().out
