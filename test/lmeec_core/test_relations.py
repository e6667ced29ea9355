"""Raw relations files with their videos, and opening takes of whatever kind a path holds."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lzstring import LZString

from lmeec_core.takes import (
    RelationsFile,
    Take,
    TakeError,
    TakeWriter,
    decode_mask,
    encode_mask,
    lzstring,
    open_takes,
)
from lmeec_core.takes.video import Video

EGO, EXO = "aria01_214-1", "cam01"
SAMPLE = Path(__file__).parents[1] / "data" / "sample_take"


def square(left: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[10:30, left : left + 20] = True
    return mask


@pytest.fixture
def raw(tmp_path: Path, relations: Callable, numbered_video: Callable) -> Path:
    """A relations file of two takes; the first has videos, an odd object name and a null mask."""
    cup = {
        EGO: {0: square(0), 30: square(3), 60: None},
        EXO: {0: square(5, (64, 32)), 60: square(6, (64, 32))},
    }
    take = {
        "take_name": "cook_7",
        "masks": {"cup/red": cup, "spoon": {EGO: {30: square(9)}}},
        "annotated_frames": {"cup/red": {EXO: [0, 30, 60]}},
    }
    other = {"masks": {"ball": {EGO: {0: square(1)}}}, "scenario": "Basketball"}
    folder = tmp_path / "takes" / "cook_7" / "frame_aligned_videos"
    numbered_video(folder / f"{EGO}.mp4", 95)
    numbered_video(folder / f"{EXO}.mp4", 95, (64, 32))
    return relations(tmp_path / "annotations" / "relations_val.json", {"u1": take, "u2": other})


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=("Cs",)), max_size=80))
def test_lzstring_decodes_what_the_published_library_encodes(text: str) -> None:
    assert lzstring.decompress(LZString().compressToEncodedURIComponent(text)) == text


def test_lzstring_of_a_long_mask() -> None:
    mask = np.random.default_rng(0).random((300, 400)) < 0.2
    counts = encode_mask(mask)["counts"]
    assert len(counts) > 10_000
    assert lzstring.decompress(LZString().compressToEncodedURIComponent(counts)) == counts


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from(lzstring.ALPHABET + "!"), max_size=30))
def test_lzstring_of_any_text_decodes_or_raises(text: str) -> None:
    try:
        assert isinstance(lzstring.decompress(text), str)
    except ValueError as error:
        assert "LZString" in str(error)


def test_a_raw_take_answers_as_a_processed_one(raw: Path, number_in: Callable) -> None:
    take = RelationsFile(raw).open("u1")
    assert (take.name, take.take_name, take.scenario) == ("u1", "cook_7", "Cooking")
    assert take.cameras == (EGO, EXO) and take.ego == EGO and take.exos == (EXO,)
    assert take.objects == ("cup/red", "spoon")
    assert take.subsample_idx == (0, 30, 60, 90) == take.frames(EGO) == take.common_frames()
    assert take.length == 4
    assert take.mask_frames("cup/red", EGO) == (0, 30, 60)
    assert take.annotated("cup/red", EGO, 60) and take.mask("cup/red", EGO, 60) is None
    assert not take.annotated("cup/red", EXO, 30)
    assert take.annotated_frames("cup/red", EXO) == {0, 30, 60}
    assert take.mask_cameras("spoon") == (EGO,)
    found = take.mask("cup/red", EXO, 60)
    assert found is not None
    np.testing.assert_array_equal(found, square(6, (64, 32)))
    rle = take.rle("cup/red", EGO, 30)
    assert rle is not None and rle["size"] == [48, 64]
    np.testing.assert_array_equal(decode_mask(rle), square(3))
    for camera, shape in ((EGO, (48, 64, 3)), (EXO, (64, 32, 3))):
        for frame in (0, 60, 30, 90):
            image = take.image(camera, frame)
            assert image.shape == shape and number_in(image) == frame
    assert take.image_bytes(EGO, 30)[:2] == b"\xff\xd8"
    with pytest.raises(TakeError, match="no frame 95"):
        take.image(EGO, 95)
    with pytest.raises(TakeError, match="cam9"):
        take.image("cam9", 0)


def test_full_size_videos_are_shrunk_as_the_benchmark_does(
    tmp_path: Path, relations: Callable, numbered_video: Callable
) -> None:
    masks = {"cup": {EGO: {0: square(0)}, EXO: {0: square(0)}}}
    path = relations(tmp_path / "r.json", {"u": {"take_name": "t", "masks": masks}})
    for camera, size in ((EGO, (1408, 1408)), (EXO, (1600, 1440))):
        numbered_video(tmp_path / "videos" / "t" / f"{camera}.mp4", 1, size)
    take = RelationsFile(path, tmp_path / "videos").open("u")
    assert take.image(EGO, 0).shape == (704, 704, 3)
    assert take.image(EXO, 0).shape == (400, 360, 3)


def test_a_raw_take_without_videos_has_masks_only(raw: Path) -> None:
    take = RelationsFile(raw).open("u2")
    assert not take.has_images and take.scenario == "Basketball"
    assert take.frames(EGO) == (0,)
    with pytest.raises(TakeError, match=r"aria01_214-1\.mp4.*--videos"):
        take.image(EGO, 0)


def test_a_raw_take_becomes_a_bag_as_any_take_does(raw: Path, tmp_path: Path) -> None:
    from lmeec_core.bags.bag import BagReader
    from lmeec_core.bags.take_bags import bag_from_take

    made = bag_from_take(RelationsFile(raw).open("u1"), tmp_path / "bag", objects=["cup/red"])
    assert made.frames == [0, 30, 60, 90]
    with BagReader(tmp_path / "bag") as bag:
        assert sum(t.count for t in bag.topics.values() if "image_raw" in t.name) == 8


def test_broken_texts_count_as_null_and_are_named(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads(raw.read_text())
    masks = content["annotations"]["u1"]["object_masks"]["cup/red"]
    masks[EGO]["annotation"]["0"]["encodedMask"] = "!"
    masks[EXO]["annotation"]["0"]["encodedMask"] = LZString().compressToEncodedURIComponent("5")
    raw.write_text(json.dumps(content))
    take = RelationsFile(raw).open("u1")
    assert take.mask("cup/red", EGO, 0) is None
    assert "'cup/red'" in caplog.text and "LZString" in caplog.text
    with pytest.raises(TakeError, match="runs of a mask"):  # decoded, but no mask of that size
        take.mask("cup/red", EXO, 0)


def test_the_benchmarks_truth_file(tmp_path: Path) -> None:
    entry = {
        "masks": {"cup": {EGO: {"0": encode_mask(square(0))}, EXO: {"0": None}}},
        "subsample_idx": [0, 30],
        "annotated_frames": {"cup": {EGO: [0], EXO: [0, 30]}},
    }
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({"version": "xx", "annotations": {"u": entry}}))
    (take,) = open_takes(path)
    assert take.subsample_idx == (0, 30) and take.length == 2
    assert take.annotated_frames("cup", EXO) == {0, 30}
    assert take.mask("cup", EXO, 0) is None and take.annotated("cup", EXO, 0)


def test_takes_are_found_in_large_files_without_parsing_them(tmp_path: Path) -> None:
    text = json.dumps({"annotated_frames": [1], "x": 'a "quoted" \\ {brace'})
    takes = ",".join(f'"take/{n}": {{"object_masks": {{}}, "n": [{text}]}}' for n in range(2000))
    path = tmp_path / "relations_train.json"
    path.write_text(f'{{"a": {{"b": {{}}}}, "annotations": {{{takes}}}, "z": {{"q": {{}}}}}}')
    file = RelationsFile(path)
    assert len(file.names) == 2000 and file.names[7] == "take/7"
    assert file.open("take/1999").objects == ()


def test_a_file_that_is_cut_off_gives_the_takes_before_the_damage(raw: Path) -> None:
    text = raw.read_text()
    raw.write_text(text[: text.index('"ball"') + 90])
    told: list[TakeError] = []
    takes = open_takes(raw, on_error=told.append)
    assert [take.name for take in takes] == ["u1"]
    assert told == takes.broken and "cut off" in str(told[0]) and str(raw) in str(told[0])


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"annotations": {', '{"ego-exo": {"results": {"t": {}}}}']
)
def test_a_file_that_is_none_names_itself(tmp_path: Path, content: str) -> None:
    path = tmp_path / "relations_val.json"
    path.write_text(content)
    with pytest.raises(TakeError, match=r"relations_val\.json"):
        open_takes(path)


@pytest.mark.parametrize(
    "entry",
    [
        '{"object_masks": {"a": {"b": {"annotation": []}}}}',
        '{"object_masks": {"a": {"b": {"annotations": {"0": null}}}}}',
        "3",
        "null",
        '"x"',
        "[]",
        "{}",
        '{"object_masks": {"a": {"b": 4}}}',
        '{"masks": [,]}',
    ],
)
def test_a_broken_take_is_skipped_and_counted(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "relations_val.json"
    path.write_text(f'{{"annotations": {{"bad": {entry}, "good": {{"masks": {{}}}}}}}}')
    takes = open_takes(path)
    assert [take.name for take in takes] == ["good"]
    assert takes.broken and "take bad" in str(takes.broken[0])


def test_frame_numbers_that_are_none_name_the_file_and_the_place(raw: Path) -> None:
    content = json.loads(raw.read_text())
    camera = content["annotations"]["u1"]["object_masks"]["cup/red"][EXO]
    camera["annotation"]["x7"] = camera["annotation"]["0"]
    camera["annotated_frames"] = [0, None]
    raw.write_text(json.dumps(content))
    take = RelationsFile(raw).open("u1")
    for use in (take.mask_frames, take.annotated_frames):
        with pytest.raises(TakeError, match=r"relations_val\.json.*u1.*'cup/red'.*'cam01'"):
            use("cup/red", EXO)


# -- videos ----------------------------------------------------------------------------------


def test_video_frames_in_any_order(
    tmp_path: Path, numbered_video: Callable, number_in: Callable
) -> None:
    video = Video(numbered_video(tmp_path / "v.mp4", 400))
    assert len(video) == 400
    order = [0, 1, 30, 399, 7, 7, 200, 263, 264, 100]
    assert [number_in(video.read(n)) for n in order] == order
    again = pickle.loads(pickle.dumps(video))
    assert number_in(again.read(333)) == 333
    with pytest.raises(TakeError, match="400 frames"):
        video.read(-1)


def test_video_of_a_varying_rate(
    tmp_path: Path, number_in: Callable, numbered_video: Callable
) -> None:
    source, path = numbered_video(tmp_path / "even.mp4", 40), tmp_path / "odd.mp4"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for n, frame in enumerate(old.decode(video=0)):
            frame.pts = frame.pts + 512 * 3 * (n // 10)  # a gap after every ten frames
            new.mux(stream.encode(frame))
        new.mux(stream.encode(None))
    video = Video(path)
    assert len(video) == 40
    assert [number_in(video.read(n)) for n in (0, 9, 10, 39, 25)] == [0, 9, 10, 39, 25]


def test_video_that_is_to_be_shown_turned(tmp_path: Path, numbered_video: Callable) -> None:
    path = numbered_video(tmp_path / "v.mp4", 3)
    upright = Video(path).read(0)
    data, unit = path.read_bytes(), (1 << 16).to_bytes(4)
    matrix = unit + bytes(12) + unit + bytes(12) + (1 << 30).to_bytes(4)
    turned = bytes(4) + unit + bytes(4) + (-1 << 16).to_bytes(4, signed=True) + bytes(16)
    place = data.index(matrix, data.index(b"tkhd"))
    path.write_bytes(data[:place] + turned + matrix[-4:] + data[place + 36 :])
    found = Video(path).read(0)
    assert found.shape == (64, 48, 3)
    np.testing.assert_array_equal(found, np.rot90(upright, -1))  # a quarter turn clockwise


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_a_broken_video_names_itself(tmp_path: Path, numbered_video: Callable, size: int) -> None:
    path = numbered_video(tmp_path / "v.mp4", 300)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TakeError, match=r"v\.mp4"):
        Video(path).read(250)


def test_a_take_of_3000_frames_runs_in_constant_memory(
    tmp_path: Path, relations: Callable, numbered_video: Callable
) -> None:
    masks = {n: square(n % 40) for n in range(3000)}
    both = {"take_name": "t", "masks": {"cup": {EGO: masks, EXO: masks}}}
    path = relations(tmp_path / "relations_val.json", {"u": both})
    video = numbered_video(tmp_path / "takes" / "t" / f"{EGO}.mp4", 3000)
    shutil.copy(video, video.with_stem(EXO))
    # In a process of its own: threads that other tests left allocate, too.
    code = (
        "import psutil, sys, tracemalloc\n"
        "from lmeec_core.takes import RelationsFile\n"
        "take = RelationsFile(sys.argv[1]).open('u')\n"
        "process = psutil.Process()\n"
        "tracemalloc.start()\n"
        f"for n, frame in enumerate(take.frames({EXO!r})):\n"
        f"    take.image({EXO!r}, frame), take.mask('cup', {EXO!r}, frame)\n"
        "    if n == 300:\n"
        "        tracemalloc.reset_peak()\n"
        "        high, after = tracemalloc.get_traced_memory()[0], process.memory_info().rss\n"
        "peak = tracemalloc.get_traced_memory()[1] - high\n"
        "tracemalloc.stop()\n"
        "print(n, peak, process.memory_info().rss - after)"
    )
    command = [sys.executable, "-P", "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    last, peak, grown = map(int, done.stdout.split())
    assert last == 2999
    assert peak < 300_000  # some images of 9 kB
    assert grown < 20e6


# -- whatever a path holds -------------------------------------------------------------------


def dataset(root: Path, names: dict[str, list[str]]) -> Path:
    for split, takes in names.items():
        for name in takes:
            with TakeWriter(root / split / name) as take:
                take.image("aria01", 0, np.zeros((8, 8, 3), np.uint8))
                take.mask("cup", "aria01", 0, np.ones((8, 8)))
    return root


def test_open_takes_of_a_take() -> None:
    takes = open_takes(SAMPLE)
    assert takes.kind == "take" and takes.names == ("sample_take",)
    assert [take.path for take in takes] == [SAMPLE]
    with pytest.raises(TakeError, match="split"):
        open_takes(SAMPLE, "val")


def test_open_takes_of_folders(tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", {"train": ["a", "b"], "val": ["c"]})
    assert open_takes(root).names == ("a", "b", "c")
    assert open_takes(root, "val").names == ("c",)
    assert open_takes(root / "train").names == ("a", "b")
    (root / "split.json").write_text('{"train": ["b", "a"], "val": ["c", "gone"], "test": []}')
    takes = open_takes(root)
    assert takes.kind == "dataset" and takes.names == ("b", "a", "c", "gone") and len(takes) == 4
    assert [take.name for take in takes] == ["b", "a", "c"]
    assert [str(e).split(":")[0] for e in takes.broken] == [str(root / "val" / "gone")]
    assert open_takes(root, names=("c",)).names == ("c",)
    for arguments in ({"split": "test"}, {"split": "none"}, {"names": ("zz",)}):
        with pytest.raises(TakeError, match="test|none|zz"):
            open_takes(root, **arguments)  # type: ignore[arg-type]
    (root / "split.json").write_text('{"train": ["a"], "val": ["c"], "test": ["c"]}')
    assert open_takes(root, "val").names == ("c",)
    with pytest.raises(TakeError, match="'c' occurs more than once"):
        open_takes(root)
    with pytest.raises(TakeError, match="nowhere"):
        open_takes(tmp_path / "nowhere")


def test_open_takes_opens_nothing_before_it_is_asked_for(tmp_path: Path) -> None:
    root = dataset(tmp_path, {"val": ["a", "b"]})
    takes = iter(open_takes(root))
    assert isinstance(next(takes), Take)
    shutil.rmtree(root / "val" / "b")  # is not missed before its turn
    assert list(takes) == []


def test_open_takes_of_egoexo4ds_folder(raw: Path) -> None:
    root = raw.parents[1]
    takes = open_takes(root, "val")
    assert takes.kind == "relations" and takes.names == ("u1", "u2")
    assert next(iter(takes)).has_images
    shutil.copy(raw, raw.with_name("relations_test.json"))
    with pytest.raises(TakeError, match=r"relations_test\.json, relations_val\.json"):
        open_takes(root)
    with pytest.raises(TakeError, match="no_videos"):
        open_takes(raw, videos=root / "no_videos")


def test_a_broken_file_of_a_dataset_is_skipped_and_counted(tmp_path: Path) -> None:
    root = dataset(tmp_path, {"val": ["a", "b", "c"]})
    (root / "val" / "b" / "annotation.json").write_text("{")
    takes = open_takes(root)
    assert [take.name for take in takes] == ["a", "c"]
    assert len(takes.broken) == 1 and "val/b/annotation.json" in takes.broken[0].path
