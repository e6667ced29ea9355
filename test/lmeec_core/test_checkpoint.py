"""Checkpoints in: strict, never executed, and clear about what is wrong."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lmeec_core as lm


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return lm.load_model("mini", device="cpu", seed=5).state_dict()


def save_pt(path: Path, state: dict) -> Path:
    torch.save({"model": state, "epoch": 3}, path)
    return path


def save_safetensors(path: Path, state: dict) -> Path:
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    return path


@pytest.mark.parametrize(("name", "save"), [("a.pt", save_pt), ("a.safetensors", save_safetensors)])
def test_formats(name: str, save: Callable, tmp_path: Path, state: dict) -> None:
    model = lm.load_model("mini", save(tmp_path / name, state), device="cpu")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_sam2_checkpoint_only_where_asked_for(
    tmp_path: Path, state: dict, caplog: pytest.LogCaptureFixture
) -> None:
    sam = save_pt(tmp_path / "sam.pt", {k: v for k, v in state.items() if "MV_MoE" not in k})
    with pytest.raises(lm.CheckpointError, match="12 missing: MV_MoE.*require_mv_moe=False"):
        lm.load_model("mini", sam, device="cpu")
    model = lm.load_model("mini", sam, device="cpu", require_mv_moe=False)
    assert torch.equal(model.no_obj_ptr, state["no_obj_ptr"])
    assert "has no MV-MoE" in caplog.text


def test_incomplete_mv_moe_is_never_allowed(tmp_path: Path, state: dict) -> None:
    del state["MV_MoE.mlp1.0.weight"]
    with pytest.raises(lm.CheckpointError, match="1 missing: MV_MoE.mlp1.0.weight"):
        lm.load_model("mini", save_pt(tmp_path / "a.pt", state), device="cpu", require_mv_moe=False)


def test_wrong_file_names_what_does_not_fit(tmp_path: Path, state: dict) -> None:
    state["extra.weight"] = torch.zeros(2)
    state["no_obj_ptr"] = torch.zeros(1, 7)
    for name in [k for k in state if k.startswith("memory_encoder.fuser")]:
        del state[name]
    with pytest.raises(lm.CheckpointError) as error:
        lm.load_model("mini", save_pt(tmp_path / "a.pt", state), device="cpu")
    text = str(error.value)
    assert "18 missing: memory_encoder.fuser.layers.0.gamma" in text and ", ..." in text
    assert "1 unexpected: extra.weight" in text
    assert "1 misshapen: no_obj_ptr (file (1, 7), model (1, 256))" in text


def test_weights_of_another_preset_are_recognised(tmp_path: Path, state: dict) -> None:
    with pytest.raises(lm.CheckpointError, match="It fits the preset 'mini': choose that one"):
        lm.load_model("nano", save_pt(tmp_path / "a.pt", state), device="cpu")


class _Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("executed"),))


def test_code_in_a_checkpoint_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": _Evil()}, "evil.pt")
    Path("plain.pt").write_bytes(pickle.dumps({"model": _Evil()}))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(lm.CheckpointError, match=name):
            lm.load_model("mini", name, device="cpu")
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04" + bytes(200)])
def test_corrupt_files(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(lm.CheckpointError, match=name):
        lm.load_model("mini", tmp_path / name, device="cpu")


def test_truncated_file(tmp_path: Path, state: dict) -> None:
    for path in (
        save_pt(tmp_path / "a.pt", state),
        save_safetensors(tmp_path / "a.safetensors", state),
    ):
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(lm.CheckpointError, match="unreadable or corrupt"):
            lm.load_model("mini", path, device="cpu")


@pytest.mark.parametrize("content", [{"model": {}}, {"model": {"a": 1}}, [1, 2], {"a": "b"}])
def test_files_without_weights(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(lm.CheckpointError, match="no weights|not a tensor"):
        lm.load_model("mini", tmp_path / "a.pt", device="cpu")


def test_nothing_given(tmp_path: Path) -> None:
    with pytest.raises(lm.CheckpointError, match="no such file"):
        lm.load_model("mini", tmp_path / "absent.pt", device="cpu")
    with pytest.raises(lm.CheckpointError, match="no weights are bundled for 'mini'"):
        lm.load_model("mini", device="cpu")


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="preset: 'huge' given"):
        lm.load_model("huge", seed=0)
    with pytest.raises(ValueError, match="device: 'tpu!' given"):
        lm.load_model("mini", seed=0, device="tpu!")
    with pytest.raises(ValueError, match="precision: 'int4' given"):
        lm.load_model("mini", seed=0, precision="int4")  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_cuda_without_a_device_is_said() -> None:
    with pytest.raises(ValueError, match="finds no CUDA device"):
        lm.load_model("mini", seed=0, device="cuda")


def test_seed_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    a, b = (lm.load_model("mini", device="cpu", seed=7).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a[k], b[k]) for k in a)
