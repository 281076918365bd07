"""The house rules that no single module can keep: light imports, layers, documented names, a wheel that works."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import thingstuff

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src" / "thingstuff"
MODULES = {
    ".".join(p.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted(SOURCE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in MODULES.items()}


def printed(code: str) -> str:
    """Return the last line that Python code prints in a process of its own, which has no import hook."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


# Light imports


TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
# --help ends in SystemExit, after which what was imported is looked at.
HELP = """
import sys
from thingstuff.cli import main
sys.argv = ["thingstuff", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
LOADED = "print('torch' in sys.modules, 'torchvision' in sys.modules, 'matplotlib' in sys.modules)"
WITHOUT_TORCH = [
    "errors", "panoptic", "coco_categories", "io", "data.coco", "data.scenes", "evaluation.pq",
    "evaluation.evaluator", "evaluation.baselines",
    "drawing", "report", "evaluation_report", "evaluating", "cli",
    "convert_command", "checking.checker", "showing.show",
]  # fmt: skip


def fastest(code: str, limit: float, runs: int = 8) -> float:
    """Return the least of some times that Python code prints; other work on the machine can only add to one."""
    best = float("inf")
    for _ in range(runs):
        best = min(best, float(printed(code)))
        if best < limit:
            break
    return best


def test_import_is_fast_and_loads_no_torch() -> None:
    assert printed(f"import sys, thingstuff; {LOADED}") == "False False False"
    assert fastest(TIMED.format("import thingstuff"), 0.3) < 0.3


def test_help_is_fast_and_loads_no_torch() -> None:
    assert printed(f"{HELP}\n{LOADED}") == "False False False"
    # From the interpreter's own start: what a person waits for.
    code = "import subprocess, sys, time; start = time.perf_counter(); "
    code += f"subprocess.run([sys.executable, '-c', {HELP!r}], check=True, stdout=subprocess.DEVNULL); "
    assert fastest(code + "print(time.perf_counter() - start)", 0.7) < 0.7


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_file_work_needs_no_torch(module: str) -> None:
    assert printed(f"import sys, thingstuff.{module}; print('torch' in sys.modules)") == "False"


def type_checking_imports() -> dict[str, str]:
    """Return name -> module of what the package tells type checkers."""
    guard = next(n for n in TREES["__init__"].body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    imports = [n for n in guard.body if isinstance(n, ast.ImportFrom)]
    return {a.name: (n.module or "").removeprefix("thingstuff.") for n in imports for a in n.names}


def test_public_names_agree_and_resolve() -> None:
    assert Counter(thingstuff.__all__) == Counter(thingstuff._HOME.keys())
    assert type_checking_imports() == thingstuff._HOME
    code = "import thingstuff as ts; [getattr(ts, n) for n in ts.__all__]; print(set(ts.__all__) <= set(dir(ts)))"
    assert printed(code) == "True"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = thingstuff.no_such_name


# What git keeps


# A path of one person's machine, or the address of a package registry: either would bind a clone to where it was made.
BOUND = re.compile(
    rb"(?:^|[^A-Za-z0-9_.])/(?:work|farm|root|tmp/w|opt/(?:wheels|pypi))/|/(?:home|Users)/[a-z][\w.-]*/|[A-Z]:\\Users\\"
    rb"|pypi[.]org|pythonhosted[.]org|download[.]pytorch[.]org/whl|anaconda[.]org|index[-_]url|[\"' ]--find[-]links",
    re.MULTILINE,
)


def tracked() -> list[Path]:
    """Return the files git tracks; only a copy that is no git repository (an sdist) has none to look at."""
    if not (REPOSITORY / ".git").exists() or not (git := shutil.which("git")):
        pytest.skip("no git repository here")
    done = subprocess.run([git, "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    files = [REPOSITORY / name for name in done.stdout.split("\0") if name]
    return [path for path in files if path.is_file()]


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    bound = {str(p.relative_to(REPOSITORY)): m[0] for p in tracked() if (m := BOUND.search(p.read_bytes()))}
    assert not bound
    assert not [p.name for p in tracked() if p.suffix == ".lock"], "a lock file records registry addresses"


def test_tracked_files_are_small() -> None:
    golden = REPOSITORY / "tests" / "golden"
    sizes = {path: path.stat().st_size for path in tracked()}
    assert not {str(p): n for p, n in sizes.items() if n > 1_000_000 and golden not in p.parents}
    assert sum(n for p, n in sizes.items() if golden in p.parents) < 5_000_000


# What the source may do


PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a module imports: `a.b` for `import a.b`, `a.b` for `from a import b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here, so that their direction is seen"
            yield from (f"{node.module}.{a.name}" for a in node.names)


def dangers(tree: ast.AST) -> Iterator[str]:
    """Yield what could run code from a file, or write a pickle, by the line it stands on."""
    for name in imported(tree):
        if name.split(".")[0] in PICKLING or name in ("torch.load", "torch.save"):
            yield f"import of {name}"
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        name = ast.unparse(call.func)
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if name in ("eval", "exec", "torch.save", "yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            yield f"line {call.lineno}: {name}"
        if name.endswith(".save_state"):  # accelerate's: it pickles the optimiser and the random state
            yield f"line {call.lineno}: {name}"
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield f"line {call.lineno}: torch.load without weights_only=True"
        if keywords.get("allow_pickle", "False") != "False":
            yield f"line {call.lineno}: allow_pickle"


UNPICKLING = "restricted_pickle"


@pytest.mark.parametrize("module", MODULES)
def test_source_runs_no_code_from_files(module: str) -> None:
    found = list(dangers(TREES[module]))
    assert found == (["import of pickle"] if module == UNPICKLING else [])


def test_the_one_unpickler_finds_no_class_of_a_file_s() -> None:
    tree = TREES[UNPICKLING]
    nodes = list(ast.walk(tree))
    uses = [ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "pickle"]
    assert uses == ["pickle.Unpickler"]
    assert len([n for n in nodes if isinstance(n, ast.Name) and n.id == "pickle"]) == 1, "not passed on under a name"
    (made,) = [n for n in nodes if isinstance(n, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, n.bases)]
    methods = {n.name: n for n in made.body if isinstance(n, ast.FunctionDef)}
    assert list(methods) == ["find_class"]
    called = {ast.unparse(n.func) for n in ast.walk(methods["find_class"]) if isinstance(n, ast.Call)}
    assert called == {"RefusedError"}, "it looks nothing up but in its own table"
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    assert not {"super", "getattr", "__import__", "globals"} & names
    assert not [name for name in imported(tree) if name.startswith("importlib")]


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("model.eval(); torch.load(p, weights_only=True); yaml.safe_load(t)", 0),
        ("eval(t)", 1),
        ("torch.load(p)", 1),
        ("torch.load(p, weights_only=flag)", 1),
        ("from torch import load", 1),
        ("import pickle as p", 1),
        ("torch.save(x, p)", 1),
        ("accelerator.save_state(p)", 1),
        ("np.load(p, allow_pickle=True)", 1),
    ],
)
def test_dangers_are_seen(code: str, count: int) -> None:
    assert len(list(dangers(ast.parse(code)))) == count


# Layers: imports run downward only


CORE = {"errors", "sizes", "config", "panoptic", "instances", "structures"}
PARTS = {
    "losses", "layers", "deformable", "transformer", "boxes", "matching", "merging", "backbones",
    "walk", "watching", "feature_views", "merging_fates", "head_cost",
}  # fmt: skip
DRAWING = {"embedded_pictures", "drawing", "drawing_colours", "drawing_labels", "drawing_legend", "drawing_progress"}
FILES = {"io", "coco_writing", "data", "convert"} | DRAWING
WITH_MODELS = {
    "models", "weights", "backbone_weights", "detr_weights", "panoptic_fcn_weights", "importing", "checkpoint",
    "pretrained", "predicting", "optim", "recipes", "resuming",
    "memory", "reproduce", "reproduce_folder", "reproduce_plans", "scoring", "stages", "stopping", "training",
    "transfer", "runs", "model_evaluation", "filling", "explaining", "training_progress",
}  # fmt: skip
TABLES = {"published", "tables", "reproduced"}
CEILING = {"ceiling", "ceiling_picture", "ceiling_tables", "ceiling_command"}
WALK_PAGES = {"explain_page", "explain_figures", "view_pictures", "colour_scales"}
REPORT_PARTS = {"report_page", "report_pictures", "report_maps", "report_progress"}
REPORTS = {"report", "evaluation_report", "report_pictures"}
# Module, or the folder it lies in -> what of ours it may import, within functions too. A new module adds its place.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "sizes": set(),
    "config": {"errors"},
    "panoptic": {"errors"},
    "instances": {"errors", "panoptic"},
    "structures": {"errors", "panoptic"},
    "coco_categories": {"panoptic"},
    "restricted_pickle": {"errors"},
    "papers": set(),
    **dict.fromkeys(PARTS, CORE | PARTS),
    "models": CORE | PARTS | {"models"},
    "compiled_loops": set(),
    "loops": {"compiled_loops"},
    "png_maps": set(),
    "io": {"errors", "loops", "png_maps"},
    "coco_writing": {"errors", "panoptic", "io"},
    **dict.fromkeys(DRAWING, {"errors", "panoptic", "io"} | DRAWING),
    "data": CORE | FILES | {"loops"},
    "convert": CORE | FILES,
    "checking": CORE | FILES | {"evaluation", "checking"},
    "checking_command": CORE | FILES | {"evaluation", "checking", "display"},
    "convert_command": CORE | FILES | {"display"},
    "show_command": CORE | FILES | {"display", "checking", "showing"},
    "showing": CORE | FILES | {"evaluation", "checking", "report_page", "showing"},
    "coarse_maps": CORE | PARTS,
    **dict.fromkeys(CEILING, CORE | FILES | CEILING | {"coarse_maps", "head_cost", "models", "evaluation", "display"}),
    **dict.fromkeys(WALK_PAGES, CORE | FILES | WALK_PAGES | {"walk", "watching", "report_page", "papers"}),
    "explain_command": CORE | FILES | WITH_MODELS | WALK_PAGES | {"walk", "display"},
    "evaluation": CORE | FILES | {"evaluation", "loops"},
    "error_pictures": CORE | FILES | {"evaluation"},
    **dict.fromkeys(REPORT_PARTS, CORE | FILES | REPORT_PARTS | {"evaluation", "error_pictures"}),
    **dict.fromkeys(("report", "evaluation_report"), CORE | FILES | REPORT_PARTS | {"evaluation"}),
    "display": {"evaluation"},
    "evaluating": CORE | FILES | REPORTS | {"evaluation", "display"},
    "published": set(),
    **dict.fromkeys(TABLES - {"published"}, CORE | FILES | TABLES | {"evaluation"}),
    **dict.fromkeys(
        WITH_MODELS - {"models"},
        CORE
        | PARTS
        | FILES
        | TABLES
        | REPORTS
        | WITH_MODELS
        | {"evaluation", "coco_categories", "restricted_pickle", "evaluating", "checking"},
    ),
}
ANYTHING = {"cli", "cli_data", "cli_inside", "demo"}  # commands: nothing but another command imports them
# Convenience methods of the types that users hold; each imports on use, so that the module stays light.
LAZILY = {
    "panoptic": {"thingstuff.drawing.overlay", "thingstuff.coco_writing.write_coco_panoptic"},
    "walk": {"thingstuff.explain_page.write_walk", "thingstuff.explain_figures.write_figures"},
    "models.base": {"thingstuff.io.read_picture"},
    "convert_command": {"thingstuff.filling.ModelFiller", "thingstuff.filling.DEFAULT_MODEL"},
    "evaluating": {"thingstuff.model_evaluation.evaluate_as_asked"},
}


def place_of(name: str) -> str:
    """Return the module or folder of ours that an imported dotted name belongs to; "" is the package itself."""
    inner = name.removeprefix("thingstuff").removeprefix(".")
    return thingstuff._HOME.get(inner, inner).split(".")[0]


def misplaced_imports(module: str, tree: ast.Module) -> list[str]:
    """Return the imports of a module that run upward or sideways."""
    place = next((key for key in (module, module.split(".")[0]) if key in MAY_IMPORT), None)
    assert place, f"{module} has no place among the layers: give it one in MAY_IMPORT"
    lazy = {name for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for name in imported(function)}
    excepted = LAZILY.get(module, set()) & lazy
    own = [name for name in imported(tree) if name.split(".")[0] == "thingstuff" and name not in excepted]
    return [name for name in own if place_of(name) not in MAY_IMPORT[place] | {"__version__"}]


@pytest.mark.parametrize("module", [m for m in MODULES if m != "__init__" and m.split(".")[0] not in ANYTHING])
def test_imports_run_downward(module: str) -> None:
    assert not misplaced_imports(module, TREES[module])


@pytest.mark.parametrize(
    ("module", "code", "count"),
    [
        (
            "models.detr",
            "from thingstuff.structures import Target\nfrom thingstuff.models.base import PanopticModel",
            0,
        ),
        ("models.base", "def f():\n    from thingstuff.io import read_picture", 0),
        ("models.base", "from thingstuff.io import read_picture", 1),
        ("models.detr", "def f():\n    from thingstuff.io import read_picture", 1),
        ("models.detr", "import thingstuff.data.coco", 1),
        ("losses", "from thingstuff.models import create", 1),
        ("evaluation.pq", "from thingstuff import models", 1),
        ("evaluation.pq", "from thingstuff import PanopticModel", 1),
        ("structures", "from thingstuff.panoptic import VOID", 0),
        ("panoptic", "from thingstuff.structures import Images", 1),
        ("training", "from thingstuff.cli import main", 1),
        ("losses", "import thingstuff", 1),
    ],
)
def test_misplaced_imports_are_seen(module: str, code: str, count: int) -> None:
    assert len(misplaced_imports(module, ast.parse(code))) == count


# Documented names, short functions


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented(module: str) -> None:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [n for n in TREES[module].body if isinstance(n, definitions) and not n.name.startswith("_")]
    assert not [n.name for n in public if not ast.get_docstring(n)]


@pytest.mark.parametrize("module", MODULES)
def test_functions_and_files_are_short(module: str) -> None:
    functions = [n for n in ast.walk(TREES[module]) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not {f.name: n for f in functions if (n := (f.end_lineno or 0) - f.lineno + 1) > 60}
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 450


# The wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of a new environment into which pip, not uv, has installed the built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = folder.glob("thingstuff-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True, capture_output=True)
    scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    install = ["-m", "pip", "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([scripts / "python", *install], check=True, capture_output=True, env=clean_environment())
    # The dependencies are lent by this environment: installing gigabytes of torch again would take minutes. The wheel's
    # own folder stands first on the path, and .pth files of a lent folder (an editable thingstuff) are not read.
    where = [scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    specs = [importlib.util.find_spec(name) for name in ("torch", "numpy", "typer")]
    lent = dict.fromkeys(str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin)
    (site / "lent.pth").write_text("\n".join(lent) + "\n", encoding="utf-8")
    return scripts


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what points Python to another place than its own."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_RUN")}


def test_the_wheel_works_in_an_empty_environment(installed: Path, tmp_path: Path) -> None:
    def output(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [installed / program, *arguments], cwd=tmp_path, capture_output=True, text=True, env=clean_environment()
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "predict" in output("thingstuff", "--help")
    code = "import thingstuff; print(thingstuff.__file__); print(thingstuff.Panoptic.__module__)"
    file, module = output("python", "-c", code).split()
    package = Path(file).resolve().parent
    assert installed.parent.resolve() in package.parents
    assert module == "thingstuff.panoptic"
    data = {p.relative_to(SOURCE) for p in SOURCE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert not {str(p) for p in data if not (package / p).is_file()}, "the wheel lacks these files"
    assert (package / "py.typed").is_file()
