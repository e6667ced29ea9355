"""Scenes: what is drawn, what happens, what the pixels are."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmeec_core.simulation import LEVELS, SimulationConfig, level, training_config
from lmeec_core.simulation.motion import MotionPlan
from lmeec_core.simulation.objects import draw_objects
from lmeec_core.simulation.parts import lathe_mesh, settle
from lmeec_core.simulation.render import (
    SceneArrays,
    SceneRenderer,
    pick_steps,
    render_scene,
)
from lmeec_core.simulation.scene import PERSON, Scene
from lmeec_core.simulation.shapes import TRAINING_KINDS, kinds, make_parts
from lmeec_core.simulation.shapes_random import RANDOM
from lmeec_core.simulation.textures import (
    COMPOSED_TEXTURES,
    HELD_OUT_TEXTURES,
    PER_FAMILY,
    SHARED_TEXTURES,
    TRAINING_TEXTURES,
    draw_index,
    families,
    pattern,
)
from lmeec_core.takes import Take

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "test" / "data" / "sample_take"
PLAIN = level(
    "normal", shadow_share=0.0, reflect_share=0.0, multisamples=0, noise=(0.0, 0.0), blur=0.0,
    motion_blur=0.0, distortion=0.0,
)  # fmt: skip


def digest(arrays: SceneArrays) -> str:
    return hashlib.sha256(arrays.rgb.tobytes() + arrays.labels.tobytes()).hexdigest()


# ------------------------------------------------------------------------------- configuration


def test_levels_get_harder() -> None:
    easy, normal, hard = (level(name) for name in ("easy", "normal", "hard"))
    assert LEVELS == ("easy", "normal", "hard")
    for field in ("exit_share", "glance_share", "tight_share", "motion_blur", "bin_share"):
        values = [getattr(c, field) for c in (easy, normal, hard)]
        assert values == sorted(values) and values[0] < values[2], field
    assert easy.look_alikes == (0, 0) and hard.distractors[1] > normal.distractors[1]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"exo_cameras": 5}, "exo_cameras is 5, expected 1 to 4"),
        ({"moved": (3, 1)}, r"moved is \(3, 1\)"),
        ({"exit_share": 1.5}, "exit_share is 1.5"),
        ({"multisamples": 3}, "multisamples is 3"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        level("normal", **changes)


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(ValueError, match="unknown level 'brutal', expected one of easy"):
        level("brutal")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, PLAIN, "dev", 64, 4), "unknown split 'dev'"),
        ((-1, PLAIN, "train", 64, 4), "seed is -1"),
        ((0, PLAIN, "train", 8, 4), "size is 8"),
    ],
)
def test_a_scene_refuses_bad_arguments(arguments: tuple, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Scene(*arguments)


# ------------------------------------------------------------------- shapes, textures, held out


@pytest.mark.parametrize("kind", [*TRAINING_KINDS, *kinds("test")])
def test_every_kind_stands_on_the_surface(kind: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        parts, radius, height = settle(make_parts(kind, rng.random(8), 1.0))
        assert parts and 0.005 < radius < 0.35 and 0.005 < height < 0.6
        lows = [min(z for _, z in p.profile) for p in parts if p.primitive == "lathe"]
        assert all(z > -1e-9 for z in lows)


def test_a_lathe_closes_around_its_axis() -> None:
    vertices, coordinates, faces = lathe_mesh([(0, 0), (1, 0), (1, 2), (0, 2)])
    assert vertices.shape[1] == 3 and coordinates.shape == (len(vertices), 2)
    assert faces.min() == 0 and faces.max() == len(vertices) - 1
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    # Divergence theorem: the volume of a closed mesh, positive where faces point outwards.
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    assert volume == pytest.approx(2 * np.pi, rel=0.02)


def test_held_out_kinds_and_textures_never_occur_in_training() -> None:
    assert len(TRAINING_KINDS) >= 14 and len(kinds("test")) >= 4
    assert not set(TRAINING_KINDS) & set(kinds("test"))
    assert not set(TRAINING_TEXTURES) & set(HELD_OUT_TEXTURES)
    seen: dict[str, set] = {"train": set(), "val": set(), "test": set()}
    looks: dict[str, set] = {"train": set(), "val": set(), "test": set()}
    for split in seen:
        for seed in range(40):
            rng = np.random.default_rng([seed, len(split)])
            for spec in draw_objects(rng, PLAIN, split)[0]:
                seen[split].add(spec.kind)
                looks[split].add((spec.family, spec.pattern))
    assert seen["train"] | seen["val"] <= set(TRAINING_KINDS)
    assert seen["test"] <= set(kinds("test"))
    assert not looks["test"] & (looks["train"] | looks["val"])
    assert len(seen["train"]) > 20 and len(seen["test"]) >= 8


def test_rooms_draw_their_textures_from_the_split_too() -> None:
    assert set(families("test", ("wood", "checker"))) == {"wood", *HELD_OUT_TEXTURES}
    drawn = families("train", ("wood", "hexagons", "checker"))
    assert drawn == ("wood", "checker", *COMPOSED_TEXTURES)
    rng = np.random.default_rng(0)
    train = {draw_index(rng, "train") for _ in range(3000)}
    test = {draw_index(rng, "test") for _ in range(300)}
    assert not train & test and train | test >= set(range(PER_FAMILY))
    assert max(test) == PER_FAMILY - 1 and len(train) > 200


def test_training_draws_many_random_shapes() -> None:
    shapes, drawn = set(), 0
    for seed in range(40):
        for spec in draw_objects(np.random.default_rng(seed), PLAIN, "train")[0]:
            drawn += 1
            if spec.kind in RANDOM:
                shapes.add(repr(spec.parts))
    assert len(shapes) > drawn / 3  # an equal chance for every kind would give a fifth
    assert not set(RANDOM) & set(kinds("test"))
    for kind in RANDOM:  # the numbers fix the shape
        one, other = (np.random.default_rng(k).random(8) for k in (0, 1))
        assert make_parts(kind, one, 1.0) == make_parts(kind, one, 1.0)
        assert make_parts(kind, one, 1.0) != make_parts(kind, other, 1.0)


@pytest.mark.parametrize("family", [*TRAINING_TEXTURES, *HELD_OUT_TEXTURES])
def test_patterns_differ_and_repeat_exactly(family: str) -> None:
    first, again = pattern(family, 0), pattern.__wrapped__(family, 0)
    assert np.array_equal(first, again) and not first.flags.writeable
    assert first.std() > 1
    assert any(not np.array_equal(first, pattern(family, k)) for k in range(1, PER_FAMILY))
    assert set(SHARED_TEXTURES) <= set(TRAINING_TEXTURES)


def test_look_alikes_share_the_kind_of_what_is_moved() -> None:
    config = level("normal", look_alikes=(1, 1), moved=(2, 2))
    for seed in range(10):
        scene = Scene(seed, config, "train", 64, 1)
        names = [o.kind for o in scene.objects]
        assert scene.moved == 2 and names[:2] == names[2:4]
        assert len({o.name for o in scene.objects}) == len(scene.objects)


# --------------------------------------------------------------------------------------- motion


def plan_of(seed: int, config: SimulationConfig, steps: int = 200) -> MotionPlan:
    return Scene(seed, config, "train", 64, steps).plan


def test_objects_go_away_for_many_steps_and_come_back() -> None:
    config = level("hard")
    returns = spans = 0
    for seed in range(15):
        hidden = plan_of(seed, config).positions[..., 2] < -1
        for track in hidden.T:
            edges = np.flatnonzero(np.diff(track.astype(int)))
            left = [e for e in edges if track[e + 1]]
            for start in left:
                end = next((e for e in edges if e > start), None)
                if end is not None:
                    returns += 1
                    spans += int(end - start >= 8)
    assert returns >= 15 and spans >= 10


def test_only_the_moved_objects_move_and_only_in_the_hand() -> None:
    for seed in range(8):
        scene = Scene(seed, level("hard"), "train", 64, 150)
        plan = scene.plan
        step = np.linalg.norm(np.diff(plan.positions, axis=0), axis=-1)
        assert (step[:, scene.moved :] == 0).all()
        hidden = plan.positions[..., 2] < -1
        shown = ~(hidden[1:] | hidden[:-1])
        carried = (step > 1e-6) & shown
        # An object moves by itself at no time: where it moves, the hand is near.
        near = np.linalg.norm(plan.positions[1:] - plan.hand[1:, None], axis=-1) < 0.45
        assert near[carried].all() and carried.any()
        assert np.isfinite(plan.gaze).all() and (carried.sum(1) <= 1).all()


def test_steps_of_clips() -> None:
    rng = np.random.default_rng(0)
    steps = pick_steps(rng, 16, 160, 8, 2)
    first, second = steps[:8], steps[8:]
    assert np.diff(first).tolist() == [2] * 7 == np.diff(second).tolist()
    assert first[-1] < second[0] and first[0] >= 0 and second[-1] < 160
    assert len(set(pick_steps(rng, 6, 160, 1, 1))) == 6
    with pytest.raises(ValueError, match="frames 6, clip 4"):
        pick_steps(rng, 6, 160, 4, 1)
    with pytest.raises(ValueError, match="do not fit in 20 steps"):
        pick_steps(rng, 16, 20, 8, 2)


# --------------------------------------------------------------------------------------- pixels


def test_the_same_seed_gives_the_same_pixels_in_another_process() -> None:
    code = (
        "import hashlib;from lmeec_core.simulation import level;"
        "from lmeec_core.simulation.render import render_scene;"
        "render_scene(1, level('hard'), 1, 64, 'test');"  # other scenes before must not matter
        "a=render_scene(7, level('hard'), 3, 96, 'train');"
        "print(hashlib.sha256(a.rgb.tobytes()+a.labels.tobytes()).hexdigest())"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    ours = render_scene(7, level("hard"), 3, 96, "train")
    assert done.stdout.split()[-1] == digest(ours)
    assert digest(render_scene(8, level("hard"), 3, 96, "train")) != digest(ours)
    assert digest(render_scene(7, level("hard"), 3, 96, "val")) != digest(ours)


def test_a_frame_does_not_depend_on_the_frames_before_it() -> None:
    scene = Scene(3, level("normal"), "train", 96, 40)
    with SceneRenderer(scene) as renderer:
        scene.pose(20)
        first = renderer.shoot(20, 0)
        scene.pose(5)
        renderer.shoot(5, 1)
        scene.pose(20)
        again = renderer.shoot(20, 0)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])


def test_masks_are_exact() -> None:
    """Take an object away: the pixels that change are its mask, and no other."""
    checked = 0
    for seed in range(8):
        scene = Scene(seed, PLAIN, "train", 128, 10)
        with SceneRenderer(scene) as renderer:
            scene.pose(4)
            rgb, labels = renderer.shoot(4, 1)
            for number in range(len(scene.objects)):
                mask = labels == number + 1
                if mask.sum() < 60:
                    continue
                kept = scene.plan.positions[4, number].copy()
                scene.plan.positions[4, number] = (0, 0, -5)
                scene.pose(4)
                without, rest = renderer.shoot(4, 1)
                scene.plan.positions[4, number] = kept
                changed = np.abs(rgb.astype(int) - without).max(-1) > 0
                assert not (rest == number + 1).any()
                assert not (changed & ~mask).any()
                assert (changed & mask).sum() > 0.9 * mask.sum()
                checked += 1
    assert checked > 15


def test_the_wearer_does_not_see_the_own_head_and_labels_are_known() -> None:
    arrays = render_scene(11, level("normal", exo_cameras=4), 4, 96, "train")
    assert arrays.rgb.shape == (4, 5, 96, 96, 3) and arrays.labels.shape == (4, 5, 96, 96)
    assert arrays.cameras == ["aria01", "cam01", "cam02", "cam03", "cam04"]
    found = set(np.unique(arrays.labels))
    assert found <= {0, PERSON, *range(1, len(arrays.names) + 1)} and {0, PERSON} <= found
    # The head's centre is the ego camera: it would fill the view if it were drawn.
    assert (arrays.labels[:, 0] == PERSON).mean() < 0.7
    assert len(arrays.names) == len(arrays.kinds) and 1 <= arrays.moved <= len(arrays.names)


def test_absent_examples_are_plentiful() -> None:
    """Of the objects that the query view shows, many are absent from the target view."""
    queries = absent = 0
    for seed in range(30):
        a = render_scene(seed, training_config(1), 3, 64, "train")
        n = len(a.names)
        area = np.stack([[np.bincount(v.ravel(), minlength=256)[1 : n + 1] for v in frame]
                         for frame in a.labels])  # fmt: skip
        for query, target in ((0, 1), (1, 0)):
            shown = area[:, query] >= 4
            queries += int(shown.sum())
            absent += int((shown & (area[:, target] == 0)).sum())
    assert queries > 500 and 0.15 < absent / queries < 0.6


def test_difficulty_shows_in_the_pixels() -> None:
    quiet = render_scene(5, PLAIN, 1, 96, "train")
    noisy = render_scene(5, dataclasses.replace(PLAIN, noise=(20.0, 20.0)), 1, 96, "train")
    assert np.array_equal(quiet.labels, noisy.labels)
    change = noisy.rgb.astype(float) - quiet.rgb
    assert 10 < change.std() < 25


# ---------------------------------------------------------------------------------- sample take


def test_the_sample_take_can_be_made_again() -> None:
    """The command in its README still draws the same scene (another machine may differ a bit)."""
    take = Take.open(SAMPLE)
    config = level(
        "normal", noise=(0.5, 1.5), motion_blur=0.1, moved=(2, 3), look_alikes=(1, 1),
        distractors=(1, 3), exit_share=0.5, absent_steps=(5, 10), glance_share=0.2,
        occluders=(0, 2), bin_share=0.3, tight_share=0.4, distortion=0.08,
    )  # fmt: skip
    scene = Scene(82, config, "test", 320, 40)
    assert [o.name for o in scene.objects] == list(take.objects)
    with SceneRenderer(scene) as renderer:
        scene.pose(20)
        for number, camera in enumerate(take.cameras):
            rgb, labels = renderer.shoot(20, number)
            stored = take.image(camera, 600)
            assert np.abs(rgb.astype(float) - stored).mean() < 4, camera
            for index, name in enumerate(take.objects):
                mask = take.mask(name, camera, 600)
                ours = labels == index + 1
                if mask is None:
                    assert not ours.any()
                else:
                    assert (ours & mask).sum() / (ours | mask).sum() > 0.98
