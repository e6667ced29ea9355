"""Files that the disk does not take: a clear error, nothing half-written, and life goes on.

Of a recording what was written is kept.

RLIMIT_FSIZE of a process stands for the disk: a write beyond it fails like one to a full disk, with
another number (EFBIG for ENOSPC).
"""

from __future__ import annotations

import errno
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lmeec.msg import CorrespondenceMaskArray
from lmeec.srv import MemoryFile
from sensor_msgs.msg import Image

from lmeec_core.bags.bag import BagError, BagReader, BagWriter
from lmeec_core.files import replacing

TOPICS = ("/ego/image_raw", "/exo/image_raw", "/ego/label_image")
NO_LIMIT = resource.RLIM_INFINITY


@pytest.fixture
def sent(rig: Any, tools: Any) -> Any:
    """Publish a set of images, and wait for its masks: sent()."""
    for topic in TOPICS:
        rig.advertise(topic, Image)
    masks = rig.listen("/lmeec/exo/masks", CorrespondenceMaskArray)

    def send() -> None:
        k = before = len(masks)
        pictures = ((tools.scene(k), "rgb8"), (tools.scene(50 + k), "rgb8"))
        for topic, (pixels, encoding) in zip(
            TOPICS, (*pictures, (tools.label_frame(k), "mono8")), strict=True
        ):
            stamp = 1_000_000_000 + k * tools.PERIOD
            rig.publish(topic, tools.image_msg(pixels, encoding, stamp, "optical"))
        tools.wait_until(lambda: len(masks) > before, "masks")

    return send


def test_a_memory_that_does_not_fit(
    start_node: Any, rig: Any, tools: Any, sent: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "memory"
    node = start_node({**tools.BASE, "memory_folder": str(folder)})
    rig.wait_heard()
    for _ in range(2):
        sent()
    first = rig.call(MemoryFile, "/lmeec/save_memory", MemoryFile.Request(name="shift"))
    assert first.success, first.message
    before = (folder / "shift.safetensors").read_bytes()
    sent()
    room = node.log.stat().st_size + 20_000  # the log is a file, too
    assert room < len(before)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (room, NO_LIMIT))
    refused = rig.call(MemoryFile, "/lmeec/save_memory", MemoryFile.Request(name="shift"))
    assert not refused.success
    assert str(folder / "shift.safetensors") in refused.message
    assert "not written" in refused.message and "File too large" in refused.message
    assert [path.name for path in folder.iterdir()] == ["shift.safetensors"]
    assert (folder / "shift.safetensors").read_bytes() == before
    sent()  # the node lives on
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (NO_LIMIT, NO_LIMIT))
    again = rig.call(MemoryFile, "/lmeec/save_memory", MemoryFile.Request(name="shift"))
    assert again.success and (folder / "shift.safetensors").read_bytes() != before
    assert "Traceback" not in node.log.read_text()


def test_a_recording_that_does_not_fit(rig: Any, tools: Any, tmp_path: Path) -> None:
    rig.advertise("/camera", Image)
    command = [sys.executable, "-P", "-m", "lmeec_core.cli", "record", str(tmp_path / "bag")]
    log = tmp_path / "record.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "/camera"], stdout=output, stderr=output)
    try:
        rig.wait_heard()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2_000_000, NO_LIMIT))
        sent = 0

        def ended() -> bool:
            nonlocal sent
            message = tools.image_msg(tools.scene(1, 400, 400), "rgb8", 1_000_000_000 + sent)
            sent += 1
            rig.publish("/camera", message)
            return process.poll() is not None

        tools.wait_until(ended, lambda: f"the end of the recording: {log.read_text()}")
    finally:
        process.kill()
        process.wait()
    text = " ".join(log.read_text().split())
    assert process.returncode == 1, text
    said = re.search(r"bag: not written to the end: File too large; the first (\d+) messages", text)
    assert said and "Traceback" not in text
    assert {path.name for path in tmp_path.iterdir()} == {"record.log", "bag"}
    with BagReader(tmp_path / "bag") as bag:
        stamps = [bag.decode(topic, data).header.stamp for topic, _, data in bag.messages()]
        assert bag.topics["/camera"].count == len(stamps) == int(said[1]) > 0
    # The first ones, none of them missing.
    assert [stamp.nanosec for stamp in stamps] == list(range(len(stamps)))


@pytest.mark.parametrize("room", [500_000, 1_200_000, 1_230_000, 2_600_000, 3_300_000])
def test_what_a_full_disk_took_is_a_bag(tmp_path: Path, room: int) -> None:
    code = """
import sys
from lmeec_core.bags.bag import BagError, BagWriter
writer = BagWriter(sys.argv[1] + "/bag", keep=True)
writer.add_topic("/x", "sensor_msgs/msg/Image")
sent = 0
try:
    while sent < 24:
        if sent == 10:
            writer.add_topic("/y", "sensor_msgs/msg/Image")
        writer.write("/y" if sent > 10 else "/x", 5 + sent, bytes([sent]) * 150_000)
        sent += 1
    writer.close()
except BagError as error:
    print(sent, error)
"""
    text = limited(code, room, tmp_path)
    sent = int(text.split()[0])
    if "nothing was kept" in text:
        assert room < 1_300_000 and list(tmp_path.iterdir()) == []
        return
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
    with BagReader(tmp_path / "bag") as bag:
        found = list(bag.messages())
        counts = [topic.count for topic in bag.topics.values()]
    said = re.search("the first (\\d+) messages", text)
    assert said and len(found) == int(said[1]) == sum(counts)
    # No more is lost than a chunk of a megabyte, and the one that was being written.
    assert sent - 2 * 8 <= len(found) <= sent
    assert [(stamp, data[0]) for _, stamp, data in found] == [(5 + k, k) for k in range(len(found))]


def limited(code: str, size: int, folder: Path) -> str:
    """Run Python code in a process that may write files up to a size; what it prints."""
    begin = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    done = subprocess.run(
        [sys.executable, "-P", "-c", begin + code, str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bag_whose_end_does_not_fit(tmp_path: Path) -> None:
    """All is in memory until close."""
    code = """
import sys
from lmeec_core.bags.bag import BagError, BagWriter
writer = BagWriter(sys.argv[1] + "/bag")
writer.add_topic("/x", "sensor_msgs/msg/Image")
writer.write("/x", 1, bytes(100_000))
try:
    writer.close()
except BagError as error:
    print(error)
"""
    text = limited(code, 50_000, tmp_path)
    assert text.startswith(f"{tmp_path / 'bag'}: not written: File too large; nothing was")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BagError), BagWriter(tmp_path / "bag") as writer:
        raise BagError("as before: an exception in the block leaves nothing")
    assert writer.counts == {} and list(tmp_path.iterdir()) == []


def test_an_offline_run_that_does_not_fit(tmp_path: Path, tools: Any) -> None:
    """`lmeec track` says which file; nothing of the unit is taken for finished."""
    source, take = tools.REPOSITORY / "test" / "data" / "sample_take", tmp_path / "take"
    for camera in ("aria01", "cam01"):
        (take / camera).mkdir(parents=True)
        shutil.copy(source / camera / "0.jpg", take / camera)
    shutil.copy(source / "annotation.json", take)
    out = tmp_path / "masks.json"
    command = [
        sys.executable,
        "-P",
        "-m",
        "lmeec_core.cli",
        "track",
        str(take),
        "--out",
        str(out),
    ]
    command += ["--preset", "mini", "--seed", "0", "--direction", "ego-exo"]
    done = subprocess.run(["prlimit", "--fsize=1000", *command], capture_output=True, text=True)
    text = "".join(done.stderr.split())
    assert done.returncode == 1 and "Traceback" not in text
    assert f"notwritten:Filetoolarge:'{out}.work/" in text
    assert not out.exists() and not list(tmp_path.glob("*.work/*.jsonl"))
    assert not list(tmp_path.rglob("*.partial"))


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with replacing(path) as partial:
        partial.write_text("old")
        assert not path.exists()
    full = OSError(errno.ENOSPC, "No space left on device")
    text = r"not written: No space.*a\.json"
    with pytest.raises(OSError, match=text) as caught, replacing(path) as partial:
        partial.write_text("half")
        raise full
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError, match="elsewhere"), replacing(path):
        (tmp_path / "elsewhere").read_text()
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]
