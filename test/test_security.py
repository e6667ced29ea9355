"""What no source file of the project may do, found in the parsed sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for folder in ("lmeec_core", "lmeec_ros", "launch", ".ci")
    for path in (REPOSITORY / folder).rglob("*.py")
) + [REPOSITORY / "setup.py", *(REPOSITORY / "lmeec_ros" / "scripts").iterdir()]
PACKAGES = [path for path in SOURCES if path.parts[len(REPOSITORY.parts)].startswith("lmeec_")]

FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.full_load",
    "yaml.unsafe_load", "yaml.load_all", "tempfile.mktemp", "runpy.run_path",
}  # fmt: skip
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
ALLOWED = {
    ".ci/missing.py": {"calls runpy.run_path"},  # this project's own setup.py
    ".ci/pictures.py": {"calls runpy.run_path"},  # the tests' own vision_msgs/build.py
}
IMPORTERS = {
    "lmeec_core/__init__.py": "names of the package's own modules",
    "lmeec_core/engine/registry.py": "names of the package's own modules",
    "lmeec_core/engine/tensorrt_library.py": "names of TensorRT's modules, from a table in it",
    "lmeec_core/methods/__init__.py": "names of the package's own modules",
    "lmeec_ros/moved.py": "names of the package's own modules",
    "lmeec_ros/tools/play.py": "<package>.msg, of a type name that split_type has checked",
}
"""Files that may import modules by name, and which."""
WRITERS = {
    "lmeec_core/takes/writer.py": "into a hidden folder, which is renamed once it is complete",
    "lmeec_core/training/tracking.py": "into a temporary folder, for processes started with it",
    "lmeec_core/datasets/coco.py": "into a hidden folder, renamed once it is complete",
    "lmeec_core/datasets/davis.py": "into a hidden folder, renamed once it is complete",
    "lmeec_core/datasets/images.py": "into a hidden folder, renamed once it is complete",
    "lmeec_core/datasets/lerobot.py": "into a hidden folder, renamed once it is complete",
    "lmeec_core/datasets/videos.py": "into a hidden folder, renamed once it is complete",
    "lmeec_core/datasets/run.py": "a lock, which has no content",
    "lmeec_core/offline/store.py": "a lock, which has no content",
    "lmeec_core/downloads/weights.py": "a lock, which has no content",
    "lmeec_core/bags/files.py": "into a temporary folder, for this process alone",
    "lmeec_core/bags/cut_files.py": "into the same folder",
    "lmeec_ros/tools/node_process.py": "a log, which is read while it grows",
    "lmeec_core/engine/making.py": "a lock without content, and a word to the kernel, in /proc",
    "lmeec_core/bench/memory.py": "a word to the kernel, in /proc",
    "lmeec_core/training/rendering.py": "a log, which is read while it grows",
    "lmeec_ros/inference/worker.py": "a thread's name, in /proc",
    "lmeec_ros/tools/soak/feeder.py": "a log, which is read while it grows",
}
"""Files that write otherwise than to `partial` and a rename, and what."""


def dotted(node: ast.expr) -> str:
    """The name of what is called, as `yaml.load`; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def option(call: ast.Call, name: str) -> object:
    """The constant given for a keyword, None if there is none."""
    values = [k.value for k in call.keywords if k.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def offences(source: str, file: str) -> list[str]:
    """What a source does that it must not."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"imports {n}" for n in names if n.split(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if name in FORBIDDEN_CALLS:
            found.append(f"calls {name}")
        if option(node, "shell"):
            found.append(f"{name} with shell=True")
        if option(node, "allow_pickle"):
            found.append(f"{name} with allow_pickle=True")
        if name == "torch.load" and option(node, "weights_only") is not True:
            found.append("torch.load without weights_only=True")
        if name.endswith("import_module") and file not in IMPORTERS:
            found.append("imports a module by name")
    return [one for one in found if one not in ALLOWED.get(file, ())]


def writes(source: str) -> list[str]:
    """Calls that write a file which is not called `partial`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        name = dotted(node.func)
        modes = [k.value for k in node.keywords if k.arg == "mode"]
        target: ast.expr | None = None
        if method in ("write_text", "write_bytes"):
            target = owner
        elif "open" in (name, method):
            plain = name in ("open", "av.open")  # open(path, mode), else path.open(mode)
            modes += node.args[1:2] if plain else node.args[:1]
            values = [m.value for m in modes if isinstance(m, ast.Constant)]
            if any(isinstance(v, str) and set(v) & set("wax+") for v in values):
                target = node.args[0] if plain else owner
        elif name in ("torch.save", "save_file", "shutil.copy", "shutil.copyfile"):
            target = node.args[1]
        elif method in ("savefig", "imwrite", "savez", "dump"):
            target = node.args[0]
        if target is not None and "partial" not in ast.unparse(target):
            found.append(f"line {node.lineno}: {ast.unparse(node)[:60]}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_nothing_is_executed_or_unpickled(path: Path) -> None:
    file = str(path.relative_to(REPOSITORY))
    assert not offences(path.read_text(encoding="utf-8"), file)


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_are_written_whole(path: Path) -> None:
    if str(path.relative_to(REPOSITORY)) not in WRITERS:
        assert not writes(path.read_text(encoding="utf-8"))


def test_the_exceptions_are_still_needed() -> None:
    for file in WRITERS:
        assert writes((REPOSITORY / file).read_text(encoding="utf-8")), f"{file} needs none"
    for file in IMPORTERS:
        assert offences((REPOSITORY / file).read_text(encoding="utf-8"), ""), f"{file} needs none"
    assert len(SOURCES) > 90 and len(PACKAGES) > 80


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')", "exec(text)", "import pickle", "from pickle import loads", "os.system('ls')",
        "import os\nos.popen('ls')", "subprocess.run(x, shell=True)", "yaml.load(f)",
        "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)",
        "importlib.import_module(name)", "__import__(name)", "import joblib.memory",
    ],
)  # fmt: skip
def test_offences_are_found(source: str) -> None:
    assert offences(source, "some/file.py")


@pytest.mark.parametrize(
    "source",
    [
        "path.write_text('a')", "open(path, 'w')", "path.open('wb')", "torch.save(a, path)",
        "(a / 'b').write_bytes(c)", "figure.savefig(path)", "shutil.copy(a, b)",
        "path.open(mode='a')", "av.open(path, 'w', format='mp4')",
    ],
)  # fmt: skip
def test_writes_are_found(source: str) -> None:
    assert writes(source)


@pytest.mark.parametrize(
    "source",
    ["partial.write_text('a')", "open(path)", "path.open('rb')", "open(partial, 'w')",
     "shutil.copy(path, partial)", "torch.save(a, partial)", "Take.open(path)"],
)  # fmt: skip
def test_other_uses_of_files_are_not(source: str) -> None:
    assert not writes(source)


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    from lmeec_core.files import write_text

    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \udcff")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
