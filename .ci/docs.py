"""Check the Markdown files: links, anchors, and the generated table of parameters.

python .ci/docs.py            names what is wrong; exit code 1 if anything is
python .ci/docs.py --write    brings the table of parameters up to date first
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "interface.md"
BEGIN, END = "<!-- parameters: begin (python .ci/docs.py --write) -->\n", "<!-- parameters: end -->"
IGNORED = {".venv", "build", "install", "log", "out", ".pytest_cache"}


def main() -> int:
    """Run the checks and return the exit code."""
    content = TABLE.read_text(encoding="utf-8")
    current = with_parameters(content)
    if "--write" in sys.argv[1:]:
        TABLE.write_text(current, encoding="utf-8")
        content = current
    problems = [problem for file in markdown_files() for problem in broken_links(file)]
    if content != current:
        problems.append(f"{TABLE.relative_to(ROOT)}: the table of parameters is out of date; "
                        "`python .ci/docs.py --write` renews it")  # fmt: skip
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


def markdown_files() -> list[Path]:
    """All Markdown files of the project."""
    found = (p.relative_to(ROOT) for p in ROOT.rglob("*.md"))
    return sorted(ROOT / path for path in found if not IGNORED & set(path.parts))


def broken_links(file: Path) -> Iterator[str]:
    """Links of a file to files or headings that are not there (addresses are not opened)."""
    for target in links(file):
        path, _, anchor = target.partition("#")
        if re.match(r"^[a-z]+:", target):
            continue
        goal = (file.parent / path).resolve() if path else file
        where = f"{file.relative_to(ROOT)}: link {target!r}"
        if not goal.exists():
            yield f"{where}: no such file"
        elif anchor and goal.suffix == ".md" and anchor not in anchors(goal):
            yield f"{where}: no such heading; {goal.name} has {', '.join(sorted(anchors(goal)))}"


def tokens(file: Path) -> list[Token]:
    """The parsed file."""
    return MarkdownIt("commonmark").enable("table").parse(file.read_text(encoding="utf-8"))


def links(file: Path) -> Iterator[str]:
    """Targets of links and images."""
    for token in tokens(file):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target:
                yield str(target)


def anchors(file: Path) -> set[str]:
    """Headings in the form that links use (GitHub's)."""
    parsed = tokens(file)
    headings = [parsed[i + 1].content for i, t in enumerate(parsed) if t.type == "heading_open"]
    plain = (re.sub(r"[^\w\- ]", "", text.lower()) for text in headings)
    return {text.replace(" ", "-") for text in plain}


def with_parameters(content: str) -> str:
    """The text with the table of the node's parameters between the two marks."""
    from lmeec_ros.parameters.config import TABLE as specs

    lines = ["| parameter | default | meaning | at run time |", "|---|---|---|---|"]
    for spec in specs:
        choices = f" ({', '.join(spec.choices)})" if spec.choices else ""
        bounds = ""
        if spec.minimum is not None and spec.maximum is not None:
            bounds = f" ({spec.minimum:.10g} to {spec.maximum:.10g})"
        name = spec.name.replace("{camera}", "<name>").replace("{object}", "<id>")
        text = f"{spec.description}{choices or bounds}".replace("|", "\\|").replace("<", "&lt;")
        default = spec.default if not isinstance(spec.default, bool) else str(spec.default).lower()
        shown = f"`{default}`" if default not in ("", [""]) else ""
        lines.append(f"| `{name}` | {shown} | {text} | {'yes' if spec.live else ''} |")
    before, rest = content.split(BEGIN)
    return f"{before}{BEGIN}" + "\n".join(lines) + f"\n{END}" + rest.split(END)[1]


if __name__ == "__main__":
    raise SystemExit(main())
