"""`lmeec dataset --anonymise faces`: OpenCV's FaceDetectorYN with a model made here, and YuNet."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from matplotlib import cbook
from onnx import TensorProto, helper
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.datasets.faces import CELLS, FaceModel, Faces
from lmeec_core.errors import InputError
from lmeec_core.takes import TakeWriter

runner = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"})
SIDE = 40
"""Of what the model made here takes for a face: a white square, found by each white 8 x 8 cell."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with YuNet's inputs and outputs, for which a cell that is white all over is the
    middle of a face of 40 x 40 pixels."""
    nodes, outputs = [], []
    constants = {
        "share": np.full((1, 3, 1, 1), 1 / (3 * 250), np.float32), "most": np.float32(0.995),
        "column": np.array([1, -1, 1]), "wide": np.array([[0, 0, *np.log([SIDE / 8] * 2)]], "f"),
        "points": np.zeros((1, 10), np.float32), "none": np.float32(0),
    }  # fmt: skip
    constants["wide"] = constants["wide"].reshape(1, 1, 4)
    constants["points"] = constants["points"].reshape(1, 1, 10)
    for stride in (8, 16, 32):
        s = f"_{stride}"
        pool = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
        nodes += [
            helper.make_node("AveragePool", ["input"], ["pool" + s], **pool),
            helper.make_node("Conv", ["pool" + s, "share"], ["grey" + s]),
            helper.make_node("Reshape", ["grey" + s, "column"], ["cells" + s]),
            helper.make_node("Greater", ["cells" + s, "most"], ["white" + s]),
            helper.make_node("Cast", ["white" + s], ["obj" + s], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["obj" + s, "none" if stride > 8 else "half"], ["cls" + s]),
            helper.make_node("Mul", ["obj" + s, "none"], ["zero" + s]),
            helper.make_node("Add", ["zero" + s, "wide"], ["bbox" + s]),
            helper.make_node("Add", ["zero" + s, "points"], ["kps" + s]),
        ]
    constants["half"] = np.float32(0.9)
    for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            shape = [1, "n", width]
            outputs.append(
                helper.make_tensor_value_info(f"{name}_{stride}", TensorProto.FLOAT, shape)
            )
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])
    given = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "white", [image], outputs, given)
    path = tmp_path_factory.mktemp("model") / "white.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.checker.check_model(made)
    onnx.save(made, str(path))
    return path


def picture(*middles: tuple[int, int], size: tuple[int, int] = (120, 200)) -> np.ndarray:
    """Noise, with a white cell at each (x, y) in cells of 8 pixels."""
    image = np.random.default_rng(3).integers(0, 200, (*size, 3), dtype=np.uint8)
    for x, y in middles:
        image[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 255
    return image


def test_only_what_the_detector_finds_is_blurred(model: Path) -> None:
    faces, image = Faces(FaceModel.of(model)), picture((5, 6), (20, 7))
    before = image.copy()
    drawn, count = faces.blurred(image)
    assert count == 2 and np.array_equal(image, before)
    inside = np.zeros(image.shape[:2], bool)
    for left, top, right, bottom in faces.boxes(image):
        inside[top:bottom, left:right] = True
        assert (right - left, bottom - top) in {(60, 60), (61, 61)}  # a quarter more on each side
    assert inside[8 * 6 + 4, 8 * 5 + 4] and inside[8 * 7 + 4, 8 * 20 + 4]
    assert np.array_equal(drawn[~inside], before[~inside])
    rough = np.abs(np.diff(before.astype(int), axis=1))[inside[:, 1:] & inside[:, :-1]].mean()
    smooth = np.abs(np.diff(drawn.astype(int), axis=1))[inside[:, 1:] & inside[:, :-1]].mean()
    assert smooth < rough / 20


@pytest.mark.parametrize("middle", [(0, 0), (24, 14), (0, 14), (24, 0)])
def test_a_face_at_the_edge_is_blurred_as_far_as_it_is_seen(
    model: Path, middle: tuple[int, int]
) -> None:
    image = picture(middle)
    ((left, top, right, bottom),) = Faces(FaceModel.of(model)).boxes(image)
    assert 0 <= left < right <= 200 and 0 <= top < bottom <= 120
    assert (right - left < 60) and (bottom - top < 60)
    assert Faces(FaceModel.of(model)).blurred(image)[0].shape == image.shape


def test_images_of_several_sizes(model: Path) -> None:
    faces = Faces(FaceModel.of(model))
    for size in ((120, 200), (97, 61), (33, 401)):
        assert faces.blurred(picture((3, 2), size=size))[1] == 1
        assert faces.blurred(picture(size=size))[1] == 0


def test_a_dataset_without_faces(model: Path, tmp_path: Path) -> None:
    mask = np.zeros((120, 200), bool)
    mask[40:80, 60:100] = True
    with TakeWriter(tmp_path / "take") as writer:
        for frame in (0, 30, 60):
            writer.image("aria01", frame, picture())
            writer.image("cam01", frame, picture((5, 6)) if frame else picture())
            for camera in ("aria01", "cam01"):
                writer.mask("cup", camera, frame, mask)
    command = ["dataset", str(tmp_path / "take"), "--format", "webdataset"]
    for name, more in (("as_it_is", []), ("set", ["--anonymise", "faces", "--face-model", model])):
        out = ["--out", str(tmp_path / name)]
        result = runner.invoke(app, [*command, *out, *map(str, more)])
        assert result.exit_code == 0, result.output
    assert "blurred in 0 of 3 images of camera aria01" in result.output
    assert "blurred in 2 of 3 images of camera cam01" in result.output
    images = {name: images_of(tmp_path / name) for name in ("as_it_is", "set")}
    for key, before in images["as_it_is"].items():
        change = np.abs(images["set"][key].astype(int) - before).mean(axis=2)
        faced = key.endswith("cam01.jpg") and "000000" not in key
        assert (change[26:80, 17:70].mean() > 20) == faced, key
        assert change[:, 110:].max() == 0
    told = json.loads((tmp_path / "set/provenance.json").read_text())["faces"]
    assert told["model sha256"] == FaceModel.of(model).sha256
    assert told["blurred"] == f"to {CELLS} x {CELLS} mean colours"


def images_of(folder: Path) -> dict[str, np.ndarray]:
    import tarfile

    (shard,) = folder.glob("shards/*.tar")
    with tarfile.open(shard) as file:
        return {
            one.name: cv2.imdecode(np.frombuffer(file.extractfile(one).read(), np.uint8), 1)  # type: ignore[union-attr]
            for one in file if one.name.endswith(".jpg")
        }  # fmt: skip


def test_files_that_are_no_model(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    with pytest.raises(InputError, match="other.onnx: cannot be read"):
        FaceModel.of(other)
    other.write_bytes(b"nothing")
    with pytest.raises(
        InputError, match="other.onnx: OpenCV's FaceDetectorYN cannot use this file"
    ):
        FaceModel.of(other)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--anonymise", "faces"], "--face-model FILE expected"),
        (["--face-model", "x.onnx"], "is for --anonymise faces"),
        (
            ["--anonymise", "faces", "--face-model", "x.onnx", "--enrich", "d"],
            "copies the videos unchanged",
        ),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, arguments: list[str], text: str) -> None:
    sample = Path(__file__).parents[1] / "data" / "sample_take"
    result = runner.invoke(app, ["dataset", str(sample), "--out", str(tmp_path / "x"), *arguments])
    assert result.exit_code == 1 and text in result.output


@pytest.mark.slow
def test_yunet_finds_a_portrait_and_nothing_in_a_board() -> None:
    """With YuNet itself, whose file no package has."""
    given: Any = os.environ.get("LMEEC_YUNET")
    if given is None:
        pytest.skip("LMEEC_YUNET does not name a YuNet model (face_detection_yunet_*.onnx)")
    faces = Faces(FaceModel.of(Path(given)))
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        portrait = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR_RGB)
    small = cv2.resize(portrait, None, fx=0.15, fy=0.15, interpolation=cv2.INTER_AREA)
    scene = np.full((360, 640, 3), 120, np.uint8)
    scene[100 : 100 + len(small), 400 : 400 + small.shape[1]] = small
    for image, middle in ((portrait, (265, 230)), (scene, (440, 134))):
        ((left, top, right, bottom),) = faces.boxes(image)
        assert left < middle[0] < right and top < middle[1] < bottom
        drawn, count = faces.blurred(image)
        assert count == 1 and faces.boxes(drawn) == []  # nothing of it is left to find
