"""`lmeec weights`: what it lists and prints, files given by hand, and the checksums it keeps."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.checkpoint import MV_MOE_PREFIX
from lmeec_core.cli.app import app
from lmeec_core.config import PRESETS
from lmeec_core.downloads.catalogue import CATALOGUE
from weights_server import Served, get, names, sha, weights


def test_the_lines_that_it_prints_work(
    served: Served, folder: Path, checkpoints: dict[str, bytes]
) -> None:
    result = CliRunner().invoke(app, ["weights", "get", "small", "--url-base", served.base])
    block = re.search(r"parameter file:\n((?:  .*\n)+)", result.output)
    assert block
    model = yaml.safe_load(block[1])
    network = lm.load_model(
        model["model.preset"],
        model["model.checkpoint"],
        require_mv_moe=model["model.require_mv_moe"],
    )
    python = re.search(r"In Python:\n((?:  .*\n)+)", result.output)
    assert python
    assert python[1].split("\n")[0] == (
        f"  model = lm.load_model('mini', '{folder / 'small.pt'}', require_mv_moe=False)"
    )
    lm.PromptTracker(network)
    served.content = checkpoints["moe"]
    code, said = get(served, "moe")
    assert code == 0 and "require_mv_moe" not in said
    assert f"lmeec track RECORDING --preset mini --checkpoint {folder / 'moe.pt'}" in said
    lm.load_model("mini", folder / "moe.pt")


def test_without_a_known_checksum_the_first_one_is_recorded(served: Served, folder: Path) -> None:
    code, said = get(served, "open")
    assert code == 0 and f"SHA-256 {sha(served.content)} (recorded now: none is" in said
    assert names(folder) == {"open.pt", "open.pt.sha256"}
    done = subprocess.run(["sha256sum", "-c", "open.pt.sha256"], cwd=folder, capture_output=True)
    assert done.returncode == 0
    path = folder / "open.pt"
    path.write_bytes(path.read_bytes()[:-1])
    code, said = get(served, "open")  # the file on the disk was damaged
    assert code == 0 and "has changed" in said and path.read_bytes() == served.content
    path.unlink()
    served.content = served.content[:-1]
    code, said = get(served, "open")
    assert code == 1 and "the checksum is wrong" in said and not path.exists()


def test_what_is_no_checkpoint_of_the_preset_is_not_kept(
    served: Served, folder: Path, checkpoints: dict[str, bytes]
) -> None:
    code, said = get(served, "moe")  # without the MV-MoE
    assert code == 1 and "does not fit the model" in said and "MV_MoE" in said
    served.content = checkpoints["moe"][:-5000]  # whole as the server has it, but broken
    code, said = get(served, "moe")
    assert code == 1 and "not a zip archive" in said
    assert names(folder) == set()


def test_a_mirror_by_the_environment(
    served: Served, folder: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, bytes]
) -> None:
    monkeypatch.setenv("LMEEC_WEIGHTS_URL", served.base + "/")
    assert weights("get", "small")[0] == 0
    served.content = checkpoints["moe"]
    assert weights("get", "moe")[0] == 0
    assert [one["path"] for one in served.asked] == ["/mirror/small.pt", "/mirror/moe.pt"]
    monkeypatch.setenv("LMEEC_WEIGHTS_URL", "ftp://mirror")
    code, said = weights("get", "open")
    assert code == 1 and "LMEEC_WEIGHTS_URL: 'ftp://mirror' given, the URL of a folder" in said


def test_what_only_a_browser_gets(folder: Path, tmp_path: Path, checkpoints: dict) -> None:
    code, said = weights("get", "moe")
    assert code == 1 and "http://drive.invalid/x" in said
    assert "lmeec weights get moe --file" in said and not folder.exists()
    file = tmp_path / "checkpoint (1).pt"
    code, said = weights("get", "moe", "--file", file)
    assert code == 1 and f"--file {file}: no such file" in said
    file.write_bytes(checkpoints["plain"])
    code, said = weights("get", "moe", "--file", file)
    assert code == 1 and "does not fit" in said and not folder.exists()
    file.write_bytes(checkpoints["moe"])
    code, said = weights("get", "moe", "--file", file)
    assert code == 0 and f"SHA-256 {sha(checkpoints['moe'])} (recorded now" in said
    assert (folder / "moe.pt").read_bytes() == checkpoints["moe"] and file.exists()
    assert weights("get", "moe")[0] == 0  # it is there
    code, said = weights("get", "small", "--file", file)
    assert code == 1 and "its SHA-256 is" in said and not (folder / "small.pt").exists()


def test_the_list(served: Served, folder: Path) -> None:
    get(served)
    (folder / "sam2.1_hiera_tiny.pt").write_bytes(b"PK")
    result = CliRunner().invoke(app, ["weights", "list"])
    rows = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    assert result.exit_code == 0 and set(CATALOGUE) <= set(rows)
    assert "  small.pt  " in rows["small"] and f"The cache: {folder} " in result.output
    assert "sam2.1_hiera_tiny.pt, another file (2 bytes)" in rows["sam2_tiny"]
    assert "898 MB   Apache-2.0  no " in rows["sam2_large"] and "none given" in rows["lm_eec"]
    assert "/092824/sam2.1_hiera_base_plus.pt" in rows["sam2_base_plus"]


def test_the_catalogue() -> None:
    for one in CATALOGUE.values():
        config = PRESETS[one.preset]
        assert one.direct == (one.sha256 is not None) == (one.size is not None)
        if one.size is not None:  # what the network of that preset takes, in float32
            with torch.device("meta"):
                state = lm.build_model(config).state_dict()
            own = sum(v.nbytes for n, v in state.items() if not n.startswith(MV_MOE_PREFIX))
            assert own < one.size < own * 1.01 + 1_000_000
    code, said = weights("get", "sam2")
    assert code == 1 and "'sam2' given, one of ['sam2_tiny'" in said


def test_a_folder_that_cannot_be_written(served: Served, folder: Path) -> None:
    folder.parent.joinpath("weights").write_text("a file")
    code, said = get(served)
    assert code == 1 and str(folder) in said and "Traceback" not in said
