"""Takes with a calibration of their own: the scene of `lmeec view --rerun`, and datasets."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lmeec_core.calibration import Calibration, calibration_text
from lmeec_core.cli.app import app
from lmeec_core.geometry import GeometryError, Intrinsics, Pose
from lmeec_core.overlay import colour
from lmeec_core.takes import Results, Take, TakeWriter, write_results
from lmeec_core.viewing.moments import Moment, View
from lmeec_core.viewing.rerun_scene import SceneWriter

runner = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"})
FRAMES = (0, 30, 60, 90, 120)
HIDDEN = 60
"""The frame in which only one camera sees the cup."""
K = np.array([[210.0, 0, 119.5], [0, 210, 89.5], [0, 0, 1]])
LENS = Intrinsics((240, 180), K, np.zeros(0))
SIZE = (120, 160)
"""Of the images, (height, width): smaller than those that the lens is calibrated for."""
CUP = {frame: np.array([0.1 + frame / 600, -0.05, 0.02]) for frame in FRAMES}
PAN = np.array([-0.15, 0.1, 0.0])


def looking_at_the_table(x: float, y: float, z: float) -> Pose:
    """From (x, y, z) to the origin, with z up."""
    forward = -np.array([x, y, z]) / math.sqrt(x * x + y * y + z * z)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    return Pose(np.stack([right, np.cross(forward, right), forward], axis=1), np.array([x, y, z]))


EGO = {frame: looking_at_the_table(0.9, frame / 300, 0.8) for frame in FRAMES if frame != 120}
EXO = looking_at_the_table(-0.2, -1.1, 0.7)
CALIBRATION = Calibration(
    "table", {"aria01": LENS, "cam01": LENS, "cam02": LENS}, {"cam01": EXO}, {"aria01": EGO}
)


def disc(pose: Pose | None, place: np.ndarray) -> np.ndarray:
    """The mask of a small thing."""
    mask = np.zeros(SIZE, bool)
    if pose is not None:
        x, y = LENS.project(pose.to_camera(place[None]))[0] * (160 / 240) - (0.5 - 160 / 480)
        rows, columns = np.indices(SIZE)
        mask = np.hypot(columns - x, rows - y) < 6
        assert mask.sum() > 100
    return mask


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Take:
    """aria01 moves, cam01 stands still, cam02 has no pose; the cup moves, the pan does not."""
    path = tmp_path_factory.mktemp("takes") / "take_7"
    grey = np.full((*SIZE, 3), 90, np.uint8)
    with TakeWriter(path) as writer:
        for frame in FRAMES:
            for camera in ("aria01", "cam01", "cam02"):
                writer.image(camera, frame, grey)
            writer.mask("cup", "aria01", frame, disc(EGO.get(frame), CUP[frame]))
            if frame != HIDDEN:
                writer.mask("cup", "cam01", frame, disc(EXO, CUP[frame]))
            writer.mask("pan", "aria01", frame, disc(EGO.get(frame), PAN))
            writer.mask("pan", "cam01", frame, disc(EXO, PAN))
    (path / "calibration.yaml").write_text(calibration_text(CALIBRATION), encoding="utf-8")
    return Take.open(path)


@pytest.fixture(scope="module")
def predictions(take: Take, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cup where it is, the pan 12 cm beside it."""
    path, found = tmp_path_factory.mktemp("results") / "found.json", Results("ego-exo")
    beside = PAN + [0, 0.12, 0]
    for frame in FRAMES:
        for name, place in (("cup", CUP[frame]), ("pan", beside)):
            unseen = name == "cup" and frame == HIDDEN
            mask = disc(None if unseen else EXO, place)
            found.add("take_7", name, "aria01", "cam01", frame, mask, 0.1 if unseen else 0.9)
    write_results(path, found)
    return path


class Recording:
    """The rows of a Rerun recording, by entity."""

    def __init__(self, path: Path) -> None:
        chunks = pytest.importorskip("rerun.chunk", reason="the extra rerun is not installed")
        self.static: dict[str, dict[str, list[Any]]] = {}
        self.by_frame: dict[str, dict[str, dict[int, Any]]] = {}
        reader = chunks.RrdReader(path)
        self.view_classes = [
            value
            for store in reader.blueprints()
            for chunk in reader.stream(store=store).collect().stream()
            if "ViewBlueprint:class_identifier" in chunk.to_record_batch().schema.names
            for (value,) in chunk.to_record_batch()["ViewBlueprint:class_identifier"].to_pylist()
        ]
        for chunk in reader.stream().collect().stream():
            batch = chunk.to_record_batch()
            columns = {field.name: batch.column(i) for i, field in enumerate(batch.schema)
                       if field.name == "frame" or ":" in field.name}  # fmt: skip
            for name, column in columns.items():
                values = column.to_pylist()
                if chunk.is_static:
                    place = self.static.setdefault(chunk.entity_path, {})
                    place[name] = [*place.get(name, []), *values]
                elif "frame" in columns:
                    frames = columns["frame"].to_pylist()
                    place_ = self.by_frame.setdefault(chunk.entity_path, {}).setdefault(name, {})
                    place_ |= {f: v for f, v in zip(frames, values, strict=True) if v is not None}


def view(take: Take, tmp_path: Path, *arguments: str, code: int = 0) -> tuple[Recording, str]:
    rrd = tmp_path / "x.rrd"
    command = ["view", str(take.path), "--out", str(tmp_path / "x.mp4"), "--height", "96"]
    result = runner.invoke(app, [*command, "--rerun", str(rrd), *arguments])
    assert result.exit_code == code, result.output
    return Recording(rrd), result.output


def test_cameras_points_and_tracks_are_in_the_file(
    take: Take, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERUN_ANALYTICS", "0")
    found, said = view(take, tmp_path, str(predictions))
    assert "camera 'cam02' has no pose" in said and "'aria01' has no pose in 1 frames" in said
    near = {"abs": 1e-5}  # the file has float32
    still = found.static["/target/cam01"]
    assert still["Transform3D:translation"] == [[pytest.approx(EXO.position, **near)]]
    turn = np.reshape(still["Transform3D:mat3x3"], (3, 3)).T  # by columns
    assert turn == pytest.approx(EXO.rotation, **near)
    matrix = np.reshape(still["Pinhole:image_from_camera"], (3, 3)).T
    assert matrix == pytest.approx(np.array([[140, 0, 79.5], [0, 140, 59.5], [0, 0, 1]]), **near)
    assert still["Pinhole:resolution"] == [[[160, 120]]]
    assert still["Pinhole:camera_xyz"] == [[[3, 2, 5]]]  # right, down, forward
    moving = found.by_frame["/query/aria01"]
    places = {frame: row[0] for frame, row in moving["Transform3D:translation"].items()}
    assert places == {frame: pytest.approx(pose.position, **near) for frame, pose in EGO.items()}
    assert moving["Pinhole:image_from_camera"].keys() == EGO.keys()
    assert moving["Clear:is_recursive"].keys() == {120}
    assert "/target/cam02" not in {*found.static, *found.by_frame}
    for path, name, where in (
        ("objects", "cup", {frame: CUP[frame] for frame in (0, 30, 90)}),
        ("truth", "cup", {frame: CUP[frame] for frame in (0, 30, 90)}),
        ("truth", "pan", dict.fromkeys(EGO, PAN)),
    ):
        seen = found.by_frame[f"/space/{path}/{name}"]
        points = {frame: rows[0] for frame, rows in seen["Points3D:positions"].items()}
        assert points == {frame: pytest.approx(place, abs=2e-3) for frame, place in where.items()}
        assert seen["Points3D:labels"][0] == [name]
        assert seen["Clear:is_recursive"].keys() == {120, 60} - where.keys()
        # In one line as long as it is placed; frame 90 of the cup is alone between two breaks.
        (lines,) = found.static[f"/space/tracks/{path}/{name}"]["LineStrips3D:strips"]
        assert lines == [[point for frame, point in points.items() if name == "pan" or frame < 60]]
    wrong = found.by_frame["/space/objects/pan"]["Points3D:positions"]
    assert all(np.linalg.norm(place - PAN) > 0.01 for (place,) in wrong.values())
    red = int.from_bytes(bytes((*colour(0), 255)), "big")
    assert found.by_frame["/space/objects/cup"]["Points3D:colors"][0] == [red]
    assert found.static["/space/tracks/truth/pan"]["LineStrips3D:colors"] == [[0xFFFFFFFF]]
    assert "3D" in found.view_classes


@pytest.mark.parametrize("of_the_take", [True, False])
def test_a_calibration_that_cannot_be_used(take: Take, tmp_path: Path, of_the_take: bool) -> None:
    """The take's own costs the scene, and exit code 1; one that was given is an error."""
    source = take
    if of_the_take:
        shutil.copytree(take.path, tmp_path / "take_7")
        source = Take.open(tmp_path / "take_7")
    wrong = tmp_path / ("take_7/calibration.yaml" if of_the_take else "other.yaml")
    wrong.write_text("frame: table", encoding="utf-8")
    rrd = tmp_path / "x.rrd"
    command = ["view", str(source.path), "--out", str(tmp_path / "x.mp4"), "--height", "96"]
    command += ["--rerun", str(rrd)] + ([] if of_the_take else ["--calibration", str(wrong)])
    result = runner.invoke(app, command)
    assert result.exit_code == 1 and f"{wrong}: cameras: Field required" in result.output
    assert rrd.exists() == of_the_take
    assert ("no cameras and objects in 3D" in result.output) == of_the_take


def test_a_calibration_without_a_scene_is_refused(take: Take, tmp_path: Path) -> None:
    result = runner.invoke(app, ["view", str(take.path), "--calibration", "cameras.yaml"])
    assert result.exit_code == 1 and "--rerun FILE.rrd expected" in result.output


class Log:
    """What a :class:`SceneWriter` logs, in the place of a Rerun stream."""

    def __init__(self) -> None:
        self.paths: list[tuple[str, ...]] = []

    def log(self, path: Any, *_: Any, **__: Any) -> None:
        self.paths.append(tuple(path))


def test_methods_beside_each_other_have_their_own_points() -> None:
    rr = pytest.importorskip("rerun", reason="the extra rerun is not installed")
    image, seen = np.zeros((*SIZE, 3), np.uint8), {"cup": disc(EGO[0], CUP[0])}
    wide = np.zeros((90, 160, 3), np.uint8)  # another shape than the calibrated one
    targets = [View("cam01", image, {"cup": disc(EXO, place)}, method=name)
               for name, place in (("one", CUP[0]), ("other", CUP[0] + [0, 0, 0.3]))]  # fmt: skip
    targets.append(View("cam02", wide, {"cup": None}, method="one"))
    log, problems, notes = Log(), list[str](), list[str]()
    calibration = Calibration("table", CALIBRATION.lenses, {"cam02": EXO, "cam01": EXO},
                              CALIBRATION.moving)  # fmt: skip
    scene = SceneWriter(rr, log, calibration, {"cup": (1, 2, 3)}, problems.append, notes.append)
    scene.add(Moment(0, 0.0, View("aria01", image, seen), targets))
    scene.finish()
    assert ("space", "objects", "one", "cup") in log.paths
    assert ("space", "objects", "other", "cup") not in log.paths  # the rays do not meet
    assert notes == ["1 positions rejected (error 1)"]
    assert len(problems) == 1 and "camera 'cam02'" in problems[0] and "160 x 90" in problems[0]
    assert {("target", "cam01, one"), ("target", "cam01, other")} <= {*log.paths}
    assert ("target", "cam02, one") not in log.paths


def test_one_placed_camera_has_no_points() -> None:
    rr = pytest.importorskip("rerun", reason="the extra rerun is not installed")
    image, seen = np.zeros((*SIZE, 3), np.uint8), {"cup": disc(EGO[0], CUP[0])}
    notes: list[str] = []
    known = Calibration("table", {"cam01": LENS}, {"cam01": EXO})
    scene = SceneWriter(rr, Log(), known, {"cup": (1, 2, 3)}, pytest.fail, notes.append)
    scene.add(Moment(0, 0.0, View("aria01", image, seen), [View("cam01", image, seen)]))
    scene.finish()
    assert notes == [
        "calibration: camera 'aria01' has no lens and no pose",
        "calibration: of the cameras shown, only ['cam01'] have a lens and a pose; 3D points need "
        "at least two",
    ]


@given(
    st.integers(20, 4000), st.integers(20, 4000), st.floats(0.1, 4), st.floats(-0.5, 0.5),
    st.floats(-0.5, 0.5), st.floats(0.5, 5),
)  # fmt: skip
def test_the_matrix_of_a_scaled_image_projects_to_its_pixels(
    width: int, height: int, factor: float, x: float, y: float, z: float
) -> None:
    matrix = np.array([[width / 2, 0.3, width / 2 + 3], [0, height / 3, height / 2 - 2], [0, 0, 1]])
    lens = Intrinsics((width, height), matrix, np.zeros(0))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    assume(abs(width * size[1] / (height * size[0]) - 1) < 0.005)
    u, v, w = lens.matrix_for(size) @ [x, y, z]
    seen = matrix @ [x, y, z] / z
    assert lens.scaled(np.array([u / w, v / w]), size) == pytest.approx(seen[:2], abs=1e-6 * width)


def test_the_matrix_of_an_image_of_another_shape_is_refused() -> None:
    with pytest.raises(GeometryError, match="image of 160 x 90 given, but .* for 240 x 180"):
        LENS.matrix_for((160, 90))


def export(out: Path, *arguments: Any, code: int = 0) -> tuple[Any, Any, str]:
    """Positions and their validity by episode, cameras.json, and what was said."""
    command = ["dataset", *map(str, arguments), "--out", str(out), "--format", "hdf5"]
    result = runner.invoke(app, command)
    assert result.exit_code == code, result.output
    h5py = pytest.importorskip("h5py", reason="the extra dataset is not installed")
    with h5py.File(out / "data.hdf5") as file:
        demos = [file[f"data/demo_{number}/obs"] for number in range(len(file["data"]))]
        found = [(one["position"][:], one["position_valid"][:]) if "position" in one else None
                 for one in demos]  # fmt: skip
    return found, json.loads((out / "cameras.json").read_text()), result.output


def test_a_dataset_uses_the_takes_own_calibration(
    take: Take, predictions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    ((points, valid),), cameras, said = export(out, take.path, predictions, code=1)
    assert "take_7: calibration: camera 'cam02' has no pose" in said
    cup, pan = (json.loads((out / "objects.json").read_text())[i]["id"] for i in (0, 1))
    assert (cup, pan) == ("cup", "pan")
    assert valid.tolist() == [[True, True], [True, True], [False, True], [True, True], [False] * 2]
    for tick, frame in ((0, 0), (1, 30), (3, 90)):
        assert points[tick, 0] == pytest.approx(CUP[frame], abs=2e-3)
    assert not points[~valid].any()
    assert cameras["frame"] == "table"
    assert cameras["cameras"]["cam01"]["pose"]["position"] == EXO.position.tolist()
    assert cameras["cameras"]["aria01"]["pose"] is None  # it moves
    assert cameras["cameras"]["cam02"]["lens"]["K"] == K.tolist()
    moved = cameras["episodes"]["0"]["cameras"]["aria01"]["poses"]
    assert [row and row[:3] for row in moved] == [
        *([0.9, pytest.approx(frame / 300), 0.8] for frame in EGO), None
    ]  # fmt: skip
    turns = [Pose.from_quaternion(row[:3], row[3:]).rotation for row in moved if row]
    assert np.stack(turns) == pytest.approx(np.stack([p.rotation for p in EGO.values()]), abs=1e-6)
    assert "poses" not in cameras["episodes"]["0"]["cameras"]["cam01"]
    (recording,) = json.loads((out / "provenance.json").read_text())["recordings"]
    assert recording["calibration"] == str(take.calibration_path)


def test_each_take_has_its_own_calibration_and_one_can_be_given_for_all(
    take: Take, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("as_it_is", "moved", "none", "wrong")]
    for folder in folders:
        shutil.copytree(take.path, folder)
    shift = np.array([0.0, 0, 1])
    higher = Calibration(
        "floor", CALIBRATION.lenses, {"cam01": Pose(EXO.rotation, EXO.position + shift)},
        {"aria01": {n: Pose(p.rotation, p.position + shift) for n, p in EGO.items()}},
    )  # fmt: skip
    text = calibration_text(higher)
    (folders[1] / "calibration.yaml").write_text(text, encoding="utf-8")
    (folders[2] / "calibration.yaml").unlink()
    (folders[3] / "calibration.yaml").write_text("cameras: {}", encoding="utf-8")
    found, cameras, said = export(tmp_path / "a", *folders, code=1)
    (first, valid), (second, _) = found[:2]
    assert second[valid] == pytest.approx(first[valid] + shift, abs=1e-5)
    assert valid.sum() == 7 and not any(one[1].any() for one in found[2:])
    assert "none: fewer than two cameras with a lens and a pose: no 3D points" in said
    assert f"{folders[3]}/calibration.yaml: frame: Field required" in said
    assert cameras["frame"] is None and cameras["cameras"]["cam01"]["pose"] is None
    heights = [one["cameras"]["cam01"]["pose"] for one in cameras["episodes"].values()]
    assert [one and round(one["position"][2], 6) for one in heights] == [0.7, 1.7, None, None]
    assert [one["frame"] for one in cameras["episodes"].values()] == ["table", "floor", None, None]
    (tmp_path / "all.yaml").write_text(text, encoding="utf-8")
    given = ("--calibration", tmp_path / "all.yaml")
    found, cameras, _ = export(tmp_path / "b", folders[0], folders[2], *given, code=1)
    assert all(np.array_equal(points, second) for points, _ in found)
    assert cameras["frame"] == "floor"


def test_without_any_calibration_there_are_no_positions(take: Take, tmp_path: Path) -> None:
    shutil.copytree(take.path, tmp_path / "take")
    (tmp_path / "take" / "calibration.yaml").unlink()
    (found,), cameras, said = export(tmp_path / "set", tmp_path / "take", code=1)
    assert found is None and "calibration:" not in said and "episodes" not in cameras
