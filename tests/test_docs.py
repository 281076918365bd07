"""README.md and docs/ tell the truth: every command and Python example on them is checked, and marked ones are run.

Each `thingstuff` command of a shell block must exist with the options it is given, and each `ts.name` of a Python
block must be a public name. A block below the comment `<!-- test: run -->` is also run: those of a file one after
another in one empty folder, Python blocks sharing their variables. Commands that take minutes stay unmarked; the tests
of the commands themselves run them.
"""

import ast
import glob
import json
import re
import shlex
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from made_labels import make_labels

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
SECONDS_PER_DOCUMENT = 120

SHELLS = {"bash", "console", "sh", "shell"}
FENCE = re.compile(
    r"(?P<marker>^[ ]*<!-- test: run -->\s*)?^(?P<indent>[ ]*)```(?P<language>\w*)[^\n]*\n"
    r"(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
# Typer carries its own copy of click since 0.2x, so the error that both raise is found through typer's public name.
UsageError = typer.BadParameter.__mro__[1]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of the document it begins on, and whether it is to be run."""

    language: str
    text: str
    line: int
    run: bool


def blocks_of(document: str) -> list[Block]:
    """Return a document's fenced blocks, in order; a marker that stands above no fence is an error, not a silence."""
    blocks = [
        Block(
            m["language"], textwrap.dedent(m["text"]), document.count("\n", 0, m.start("text")), m["marker"] is not None
        )
        for m in FENCE.finditer(document)
    ]
    runnable = [b for b in blocks if b.run and b.language in SHELLS | {"python"}]
    markers = re.findall(r"<!--\s*test", document)
    assert len(markers) == len(runnable), "each `<!-- test: run -->` stands right above a shell or Python block"
    return blocks


def command_lines(block: Block) -> list[list[str]]:
    """Return the words of every simple command in a shell block: continued lines joined, `a && b` taken apart."""
    text = block.text.replace("\\\n", " ")
    lines = text.splitlines()
    if block.language == "console":
        lines = [line.lstrip()[2:] for line in lines if line.lstrip().startswith("$ ")]
    commands: list[list[str]] = []
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                commands += [words] if words else []
                words = []
            else:
                words.append(word)
    return commands


def arguments_of(words: list[str]) -> list[str] | None:
    """Return what a command hands to thingstuff; None where it runs something else."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    for start in (["uv", "run", "thingstuff"], ["thingstuff"]):
        if words[: len(start)] == start:
            return words[len(start) :]
    if "-m" in words and words[words.index("-m") + 1 :][:1] in (["thingstuff"], ["thingstuff.cli"]):
        return words[words.index("-m") + 2 :]
    return None


def complaint(command: Any, arguments: list[str], name: str = "thingstuff") -> str | None:
    """Say what is wrong with a command line by the commands and options there are; None where nothing is."""
    context = command.context_class(command, info_name=name, **command.context_settings)
    try:
        values, rest, _ = command.make_parser(context).parse_args(list(arguments))
    except UsageError as error:
        return f"{name}: {error.format_message()}"
    if values.get("help"):
        return None
    if not hasattr(command, "commands"):
        missing = [p.opts[0] for p in command.params if p.required and values.get(p.name) in (None, ())]
        if missing:
            return f"{name}: {', '.join(missing)} is required"
        return f"{name} takes no {' '.join(rest)!r}" if rest and not context.allow_extra_args else None
    if not rest:
        return None
    if rest[0] not in command.commands:
        return f"{name} has no command {rest[0]!r}; it has {', '.join(sorted(command.commands))}"
    return complaint(command.commands[rest[0]], rest[1:], f"{name} {rest[0]}")


def unknown_names(source: str, public: set[str]) -> set[str]:
    """Return the names a Python example takes from thingstuff that are not public ones."""
    tree = ast.parse(source)
    imports = [(n, a) for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names if a.name == "thingstuff"]
    aliases = {a.asname or a.name for _, a in imports} | {"ts"}
    used = {
        n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in aliases
    }
    froms = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "thingstuff"]
    return (used | {a.name for n in froms for a in n.names}) - public


def step_of(block: Block) -> list[dict[str, Any]]:
    """Return what running a marked block means: one step for Python, one for each command of a shell block."""
    if block.language == "python":
        return [{"line": block.line, "python": block.text}]
    steps = []
    for words in command_lines(block):
        arguments = arguments_of(words)
        assert arguments is not None, f"line {block.line}: only thingstuff commands can be run, not {' '.join(words)!r}"
        steps.append({"line": block.line, "arguments": arguments})
    return steps


def take_step(step: dict[str, Any], variables: dict[str, Any], seconds: float) -> int:
    """Run one step in the current folder and return its exit code; shell wildcards are expanded as a shell does."""
    if "python" in step:
        exec(compile(step["python"], f"<line {step['line']}>", "exec"), variables)
        return 0
    arguments = [found for a in step["arguments"] for found in (sorted(glob.glob(a)) if "*" in a else None) or [a]]
    program = [sys.executable, "-c", "from thingstuff.cli import main; main()"]
    return subprocess.run([*program, *arguments], stdin=subprocess.DEVNULL, timeout=seconds).returncode


def take_steps(steps: list[dict[str, Any]], seconds: float) -> int:
    """Run steps until one fails or the time is over, and return the exit code of the last."""
    deadline, variables = time.monotonic() + seconds, {"__name__": "__main__"}
    for step in steps:
        code = take_step(step, variables, max(deadline - time.monotonic(), 0.1))
        if code:
            print(f"line {step['line']}: exit code {code} from {step}", file=sys.stderr)
            return code
    return 0


def run_document(
    document: str, folder: Path, seconds: float = SECONDS_PER_DOCUMENT
) -> subprocess.CompletedProcess[str]:
    """Run a document's marked blocks in a folder, all in one process of its own that has a time limit."""
    steps = [step for block in blocks_of(document) if block.run for step in step_of(block)]
    # The steps lie in a file of their own: a long document would not fit on Windows' command line.
    plan = folder.with_name(f"{folder.name}-steps.json")
    plan.write_text(json.dumps(steps), encoding="utf-8")
    command = [sys.executable, str(Path(__file__).resolve()), str(plan), str(seconds)]
    # A command that hangs is ended by the process itself; the ten seconds more are for Python blocks that do.
    return subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + 10
    )


@pytest.fixture(scope="module")
def root() -> Any:
    """The command line of the package."""
    from thingstuff.cli import app

    return typer.main.get_command(app)


@pytest.fixture
def small_root() -> Any:
    """A command line whose right and wrong uses are known."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def train(data: str, out: str = typer.Option(...), epochs: int = 1, verbose: bool = False) -> None: ...

    @app.command(context_settings={"allow_extra_args": True})
    def score(gt: str = "") -> None: ...

    return typer.main.get_command(app)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_every_command_exists(path: Path, root: Any) -> None:
    found = []
    for block in blocks_of(path.read_text(encoding="utf-8")):
        for words in command_lines(block) if block.language in SHELLS else []:
            arguments = arguments_of(words)
            wrong = complaint(root, arguments) if arguments is not None else None
            found += [f"{path.name}, block at line {block.line}: {wrong}"] if wrong else []
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_every_python_example_uses_public_names(path: Path) -> None:
    import thingstuff

    public = {*thingstuff.__all__, "__version__"}
    for block in blocks_of(path.read_text(encoding="utf-8")):
        if block.language == "python":
            assert not unknown_names(block.text, public), f"{path.name}, block at line {block.line}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_marked_blocks_run(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    if path.name == "your-data.md":
        make_labels(folder / "labels")
    done = run_document(path.read_text(encoding="utf-8"), folder)
    assert done.returncode == 0, f"{path.name}\n{done.stdout}\n{done.stderr}"


def test_the_readme_shows_the_main_commands() -> None:
    blocks = blocks_of((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    lines = [words for block in blocks if block.language in SHELLS for words in command_lines(block)]
    shown = {arguments[0] for words in lines if (arguments := arguments_of(words))}
    assert {"demo", "train", "evaluate", "predict"} <= shown
    assert ["uv", "run", "pytest"] in lines


# The checks themselves, on made documents.


def shell(text: str, language: str = "bash") -> Block:
    return Block(language, text, 1, False)


def test_blocks_are_found_with_their_markers() -> None:
    document = "a\n\n```bash\nx\n```\n<!-- test: run -->\n\n```python\ny\n```\n- item\n\n  ```console\n  $ z\n  ```\n"
    blocks = blocks_of(document)
    assert [(b.language, b.text, b.run) for b in blocks] == [
        ("bash", "x\n", False),
        ("python", "y\n", True),
        ("console", "$ z\n", False),
    ]
    assert [document.splitlines()[b.line - 1].strip()[:3] for b in blocks] == ["```"] * 3


@pytest.mark.parametrize("marker", ["<!-- test: run -->\ntext\n", "<!-- test:run -->\n", "<!--test: run -->\n"])
def test_a_marker_that_marks_nothing_is_an_error(marker: str) -> None:
    with pytest.raises(AssertionError, match="stands right above"):
        blocks_of(f"{marker}```bash\nthingstuff demo\n```\n")


def test_command_lines_are_taken_apart() -> None:
    text = (
        "pip install -q uv && uv run thingstuff demo  # the main job\nthingstuff train DATA \\\n  --out 'a b'; ls > x\n"
    )
    assert command_lines(shell(text)) == [
        ["pip", "install", "-q", "uv"],
        ["uv", "run", "thingstuff", "demo"],
        ["thingstuff", "train", "DATA", "--out", "a b"],
        ["ls"],
        ["x"],
    ]
    assert command_lines(shell("$ thingstuff demo\nthingstuff says hello\n", "console")) == [["thingstuff", "demo"]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("uv run thingstuff demo --out x", ["demo", "--out", "x"]),
        ("OMP_NUM_THREADS=1 thingstuff demo", ["demo"]),
        ("torchrun --nproc-per-node 2 -m thingstuff.cli train D", ["train", "D"]),
        ("pip install thingstuff", None),
        ("uv run pytest", None),
    ],
)
def test_commands_of_ours_are_recognised(line: str, expected: list[str] | None) -> None:
    assert arguments_of(line.split()) == expected


@pytest.mark.parametrize(
    "line", ["train DATA --out a --epochs 3 --verbose", "train --help", "score --gt a.json x=1", "--help", ""]
)
def test_right_commands_pass(small_root: Any, line: str) -> None:
    assert complaint(small_root, line.split()) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("fly", "no command 'fly'"),
        ("train DATA --out a --epoch 3", "--epoch"),
        ("train DATA --out", "--out"),
        ("train DATA", "--out is required"),
        ("train --out a", "data is required"),
        ("train DATA MORE --out a", "takes no 'MORE'"),
        ("--nothing", "--nothing"),
    ],
)
def test_wrong_commands_are_told(small_root: Any, line: str, told: str) -> None:
    assert told in (complaint(small_root, line.split()) or "")


def test_unknown_names_are_told() -> None:
    source = "import thingstuff as t\nfrom thingstuff import load, lode\nt.predikt(ts.load('a').predict)\n"
    assert unknown_names(source, {"load"}) == {"lode", "predikt"}


def test_marked_blocks_run_in_order_and_share_variables(tmp_path: Path) -> None:
    run = "<!-- test: run -->\n"
    document = (
        f"{run}```python\nfrom pathlib import Path\nname = 'b.txt'\nPath('a.txt').write_text('1')\n```\n"
        f"```python\nraise SystemExit('not marked, not run')\n```\n"
        f"{run}```python\nPath(name).write_text(Path('a.txt').read_text() + '2')\n```\n"
    )
    done = run_document(document, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.txt").read_text() == "12"


def test_a_marked_command_is_run_and_its_failure_is_one(tmp_path: Path) -> None:
    good = run_document("<!-- test: run -->\n```bash\nuv run thingstuff --help\n```\n", tmp_path)
    assert good.returncode == 0, good.stderr
    assert "predict" in good.stdout
    bad = run_document("<!-- test: run -->\n```bash\nthingstuff no-such-command\n```\n", tmp_path)
    assert bad.returncode == 2
    assert "no-such-command" in bad.stderr


def test_a_marked_block_of_another_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="only thingstuff commands"):
        run_document("<!-- test: run -->\n```bash\nrm -r everything\n```\n", tmp_path)


def test_a_python_block_that_fails_or_hangs_is_told(tmp_path: Path) -> None:
    failing = run_document("<!-- test: run -->\n```python\nassert 1 + 1 == 3\n```\n", tmp_path)
    assert failing.returncode != 0
    with pytest.raises(subprocess.TimeoutExpired):
        run_document("<!-- test: run -->\n```python\nimport time; time.sleep(60)\n```\n", tmp_path, seconds=-9)


if __name__ == "__main__":
    sys.exit(take_steps(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), float(sys.argv[2])))
