"""The house rules that no other tool checks: who may import whom, and what nobody may call."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "rl_ros").rglob("*.py"))
LAYERS = (
    {"nodes"},
    {"cli"},
    {"commands"},
    {"training"},
    {"tasks"},
    {"algorithms"},
    {"robots"},
    {"episodes"},
    {"bringup", "permissions", "gazebo"},
    {"graph"},
    {"networks"},
    {"contract", "robot"},
    {"schema", "resources", "errors", "interruptions", ""},
)
"""Top to bottom. The empty name is the package itself, which holds the version."""
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.jit.load", "onnx.load",
    "yaml.load", "yaml.load_all", "yaml.safe_load", "pandas.read_pickle",
}  # fmt: skip
"""Calls that run what is in a file, or, as yaml.safe_load, unfold it without end: schema.plain_yaml does not."""
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    return [*module.split("."), ""][1]


def imports(path: Path, tree: ast.AST | None = None) -> Iterator[tuple[int, str]]:
    """Line and module of each import in a file, relative ones spelled out."""
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parent.parts
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            yield node.lineno, base
            # `from rl_ros import graph` names a module, `from rl_ros import __version__` does not.
            yield from (
                (node.lineno, f"{base}.{alias.name}") for alias in node.names if base == "rl_ros" and alias.name in RANK
            )


def test_the_files_are_found() -> None:
    assert "rl_ros/episodes/assemble.py" in [place(path) for path in FILES]
    assert {layer_of(module_of(path)) for path in FILES} <= RANK.keys(), "a new part of rl_ros has no place here yet"


def test_imports_go_down_the_house_and_never_up() -> None:
    offenders = [
        f"{place(path)}:{line} imports {module}"
        for path in FILES
        for line, module in imports(path)
        if module.split(".")[0] == "rl_ros" and RANK.get(layer_of(module), 0) < RANK[layer_of(module_of(path))]
    ]
    assert not offenders, "\n".join(offenders)


def test_no_module_needs_itself_to_be_imported() -> None:
    modules = {module_of(path): path for path in FILES}
    needs: dict[str, set[str]] = {}
    for name, path in modules.items():
        # Only what is imported at once, not within functions.
        found: set[str] = set()
        for statement in ast.parse(path.read_text()).body:
            if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                found |= {module for _, module in imports(path, statement) if module in modules}
        needs[name] = found - {name, "rl_ros"}

    def circle(name: str, above: tuple[str, ...]) -> tuple[str, ...]:
        if name in above:
            return (*above[above.index(name) :], name)
        return next(filter(None, (circle(below, (*above, name)) for below in sorted(needs[name]))), ())

    circles = {" -> ".join(found) for name in modules if (found := circle(name, ()))}
    assert not circles, "\n".join(sorted(circles))


def test_only_nodes_and_bringup_import_ros() -> None:
    ros = {
        "rclpy",
        "launch",
        "launch_ros",
        "ament_index_python",
        "sensor_msgs",
        "geometry_msgs",
        "std_msgs",
        "std_srvs",
    }
    ros |= {"trajectory_msgs", "diagnostic_msgs", "rosgraph_msgs", "builtin_interfaces", "rosbag2_py", "cv_bridge"}
    offenders = [
        f"{place(path)}:{line} imports {module}"
        for path in FILES
        for line, module in imports(path)
        if module.split(".")[0] in ros and layer_of(module_of(path)) not in ("nodes", "bringup")
    ]
    assert not offenders, "\n".join(offenders)


def offences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and description of what nobody may do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] in PICKLES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in PICKLES:
                yield node.lineno, str(node.module)
            elif node.module == "torch" and any(alias.name == "load" for alias in node.names):
                yield node.lineno, "torch.load"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "bare except"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN or called.rpartition(".")[2] in ("extractall", "full_load", "unsafe_load"):
                yield node.lineno, called
            for keyword in node.keywords:
                allowed = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in ("allow_pickle", "shell", "trust_remote_code") and not allowed:
                    yield node.lineno, keyword.arg


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "def f():\n    import dill",
        "torch.load('x')",
        "from torch import load",
        "np.load('x', allow_pickle=True)",
        "eval('1')",
        "exec('1')",
        "yaml.load('1')",
        "yaml.full_load('1')",
        "yaml.safe_load('1')",
        "os.system('1')",
        "subprocess.run('1', shell=True)",
        "tar.extractall('1')",
        "torch.jit.load('1')",
        "try:\n    pass\nexcept:\n    pass",
    ],
)
def test_what_nobody_may_do_is_recognised(code: str) -> None:
    assert list(offences(ast.parse(code)))


def test_what_is_harmless_is_not_taken_for_it() -> None:
    harmless = (
        "model.eval()\nnp.load('x', allow_pickle=False)\nre.compile('1')\ntry:\n    pass\nexcept OSError:\n    pass"
    )
    assert not list(offences(ast.parse(harmless)))


def test_nothing_is_unpickled_evaluated_or_swallowed() -> None:
    others = [path for top in ("benchmarks", "launch", "sim") for path in sorted((ROOT / top).rglob("*.py"))]
    files = [*FILES, ROOT / "setup.py", *others]
    found = [f"{place(path)}:{line}: {what}" for path in files for line, what in offences(ast.parse(path.read_text()))]
    assert not found, "\n".join(found)
