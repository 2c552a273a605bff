"""Who may import whom, who may register hooks, and what no module may call: read from the syntax tree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "rewarden"
MODULES = sorted(PACKAGE.rglob("*.py"))

LEAVES = {"errors", "lazy", "options", "result", "statistics", "store"}
HOOKS = "trace.hooks"  # knows torch only, so that structure can be found by running a model once
GROUND = LEAVES | {HOOKS, "conversation", "alignment", "encoding", "batching", "limits", "readout", "architecture", "blocks",
                   "norms"}
MODEL = GROUND | {"reward_model", "loading", "checkpoint", "selfcheck", "scores", "ensemble", "fitting", "contrasts"}
TRACE = MODEL | {"trace"}
EDITS = TRACE | {"edits"}
ANALYSES = ("lens", "patching", "hacking", "concepts", "comparison", "tokens", "dictionaries")
EVERYTHING = None

MAY_IMPORT: dict[str, set[str] | None] = {
    # leaves know each other at most
    **dict.fromkeys(LEAVES, LEAVES),
    # conversation, readout, architecture <- reward_model <- trace <- edits <- analyses <- sarm, training
    **dict.fromkeys(GROUND - LEAVES - {HOOKS}, GROUND),
    HOOKS: set(),
    "reward_model": MODEL | {"trace", "edits"},  # rm.trace and rm.edit hand over to them
    "loading": MODEL | {"demo", "sarm"},  # rw.load() of a sparse reward model hands over
    "checkpoint": MODEL | {"demo"},  # rw.load() without a name
    **dict.fromkeys(("selfcheck", "scores", "score_runs", "ensemble", "fitting", "contrasts"), MODEL | {"score_runs"}),
    "trace": TRACE,
    "edits": EDITS,
    **{name: EDITS | {name} for name in ANALYSES},
    "patching": EDITS | {"patching", "lens", "score_runs"},  # attribution is what effects are compared with
    "tokens": EDITS | {"tokens", "score_runs"},  # what a resumed search must have in common with the one before
    "dictionaries": EDITS | {"dictionaries", "score_runs"},  # the same of a resumed harvest
    "sarm": EDITS | set(ANALYSES) | {"sarm"},
    "training": EDITS | set(ANALYSES) | {"training", "sarm", "demo", "preferences"},
    "organisms": TRACE | {"organisms", "demo"},  # their texts are those of the bundled tokenizer
    # concepts <- hacking <- comparison; what a model is asked with comes from preferences
    "concepts": EDITS | {"concepts", "preferences"},
    "hacking": EDITS | {"hacking", "concepts", "patching", "preferences", "dictionaries", "demo", "tokens"},
    "comparison": EDITS | set(ANALYSES) | {"comparison", "preferences"},
    # data and bundled files know no model; only the recipe that retrains the bundled models does
    "preferences": GROUND | {"preferences", "demo"},
    "export": LEAVES | {"conversation", "preferences"},
    "demo": EDITS | {"preferences", "demo", "dictionaries", "sarm"},  # again only the recipe
    # what is shown knows Results, never how they were computed
    "plots": {"result", "errors", "statistics", "plots"},
    "report": EVERYTHING,
    "cli": EVERYTHING,
    "__init__": EVERYTHING,
}
"""Group of modules (first name below `rewarden`) -> groups it may import. A new group needs a decision here."""

HOME_OF_LIBRARY = {
    "plotly": {"plots", "report"}, "jinja2": {"report", "encoding"}, "cyclopts": {"cli"}, "rich": {"cli", "report"},
    "ray": {"scale"}, "trl": {"training"}, "fastapi": {"app", "training"}, "uvicorn": {"app", "training"},
    "verl": {"training"}, "h5netcdf": {"store"},
}
"""Libraries that stay inside the folders that need them (encoding only catches jinja2's errors in chat templates)."""


def group_of(path: Path) -> str:
    """The group of a module, from its file."""
    return group_named(".".join(["rewarden", *path.relative_to(PACKAGE).with_suffix("").parts]))


def group_named(dotted: str) -> str:
    """The group of a module: the first name below `rewarden`; `trace.hooks` is one of its own."""
    below = dotted.removeprefix("rewarden.")
    return HOOKS if below == HOOKS else below.split(".")[0]


def statements(tree: ast.AST):
    """Every node that can run; imports for type checkers only are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from statements(node)


def imports(tree: ast.AST) -> list[str]:
    """Dotted names a module imports, inside functions too."""
    found = []
    for node in statements(tree):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            found += [f"rewarden.{name.name}" for name in node.names] if module == "rewarden" else [module]
    return found


def module_id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.fixture(params=MODULES, ids=module_id)
def module(request) -> tuple[str, ast.Module]:
    return group_of(request.param), ast.parse(request.param.read_text(encoding="utf-8"))


def test_imports_follow_the_arrows(module):
    group, tree = module
    assert group in MAY_IMPORT, f"decide what {group} may import"
    allowed = MAY_IMPORT[group]
    inside = [group_named(name) for name in imports(tree) if name.startswith("rewarden.")]
    inside = [name for name in inside if name != "__version__"]
    assert allowed is None or set(inside) - allowed == set()


def test_libraries_stay_at_home(module):
    group, tree = module
    strayed = [name for name in imports(tree) if group not in HOME_OF_LIBRARY.get(name.split(".")[0], {group})]
    assert strayed == []


def test_only_trace_registers_hooks(module):
    group, tree = module
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    hooks = [call for call in calls if call.split(".")[-1].startswith("register_") and call.endswith("hook")]
    assert group in {"trace", HOOKS} or hooks == []


FORBIDDEN_FLAGS = (("weights_only", "False"), ("trust_remote_code", "True"), ("allow_pickle", "True"),
                   ("shell", "True"))


def forbidden(tree: ast.AST) -> list[str]:
    """Calls and imports that could run foreign code."""
    unsafe = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}
    found = [name for name in imports(tree) if name.split(".")[0] in unsafe]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        flags = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in {"eval", "exec", "compile", "__import__", "yaml.load", "os.system", "joblib.load"}:
            found.append(name)
        if name == "torch.load" and flags.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        found += [f"{key}={value}" for key, value in FORBIDDEN_FLAGS if flags.get(key) == value]
    return found


RUNS_CODE = "training/verifiers/sandbox/execution.py"
"""The one module that runs code of others: what a completion wrote, in a process that is confined first."""


def test_nothing_runs_foreign_code(module, request):
    allowed = {"exec", "compile"} if RUNS_CODE in request.node.callspec.id else set()
    assert set(forbidden(module[1])) == allowed


@pytest.mark.parametrize(("source", "found"), [
    ("import pickle", ["pickle"]),
    ("from dill import loads", ["dill"]),
    ("def f():\n    import pickle", ["pickle"]),
    ("eval('1')", ["eval"]),
    ("model.eval()", []),
    ("torch.load(p)", ["torch.load without weights_only=True"]),
    ("torch.load(p, weights_only=True)", []),
    ("torch.load(p, weights_only=False)", ["torch.load without weights_only=True", "weights_only=False"]),
    ("yaml.load(t)", ["yaml.load"]),
    ("f(trust_remote_code=True)", ["trust_remote_code=True"]),
    ("f(trust_remote_code=flag)", []),
])
def test_the_check_itself_sees_what_it_must(source, found):
    assert forbidden(ast.parse(source)) == found


def test_type_checking_imports_do_not_count():
    tree = ast.parse("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nimport json")
    assert imports(tree) == ["typing", "json"]
