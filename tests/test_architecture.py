"""The floors of the package: what a file may import, read from the sources and tried."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "jaxseg"
FILES = {p.relative_to(ROOT).with_suffix(""): p for p in sorted(PACKAGE.rglob("*.py"))}
MODULES = {".".join(p.parts).removesuffix(".__init__"): path for p, path in FILES.items()}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}

# From bottom to top; a file imports from its own floor and from those below.
FLOORS = [
    {"types"},
    {"ops", "data", "metrics", "viz"},
    {"losses", "train", "models"},
    {"methods", "testing"},
    {"recipes", "weights", "predictor", "tiles"},
    {"commands", "cli", "__main__"},
]
SEPARATE = {
    "ops": {"data", "metrics", "viz"},
    "train": {"models", "losses"},
    "models": {"train"},
    "weights": {"predictor"},
}
STANDARD = set(sys.stdlib_module_names)
HEAVY = [
    *("scipy", "skimage", "matplotlib", "PIL", "tyro", "grain", "tensorflow_datasets", "tqdm"),
    *("tensorboardX", "chex", "tensorflow", "torch", "pycocotools", "safetensors"),
]


def part(module):
    """The floor's room that a module is in: "ops" of "jaxseg.ops.slic"; "" of "jaxseg"."""
    return module.partition(".")[2].partition(".")[0]


def floor(module):
    return next((i for i, rooms in enumerate(FLOORS) if part(module) in rooms), None)


def imports(module, top_level_only=False):
    """Modules that are imported, those of jaxseg as finely as they are named."""
    nodes = list(ast.walk(TREES[module]))
    if top_level_only:
        inside = {
            id(node)
            for function in nodes
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for node in ast.walk(function)
        }
        nodes = [node for node in nodes if id(node) not in inside]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return found


def packages(module, **options):
    """Imported packages from outside of Python and jaxseg."""
    return {name.partition(".")[0] for name in imports(module, **options)} - STANDARD - {"jaxseg"}


def modules(*rooms):
    return [name for name in MODULES if part(name) in rooms]


def test_every_module_has_a_floor():
    assert [name for name in MODULES if name != "jaxseg" and floor(name) is None] == []
    assert {part(name) for name in MODULES} - {""} == set().union(*FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_come_from_below(module):
    for name in imports(module):
        if not name.startswith("jaxseg"):
            continue
        if name == "jaxseg":  # the version
            assert floor(module) is None or floor(module) >= floor("jaxseg.train"), module
            continue
        assert module != "jaxseg" or floor(name) <= floor("jaxseg.predictor")
        if module != "jaxseg":
            assert floor(name) <= floor(module), f"{module} imports {name} from above"
        assert part(name) not in SEPARATE.get(part(module), set()), f"{module} imports {name}"


def test_train_knows_no_method_and_no_network():
    for module in modules("train"):
        assert {part(n) for n in imports(module) if n.startswith("jaxseg.")} <= {
            *("types", "ops", "data", "metrics", "viz", "train"),
        }


def test_types_imports_jax_and_numpy_alone():
    assert packages("jaxseg.types") <= {"jax", "numpy"}


def test_only_models_import_flax():
    users = {part(name) for name in MODULES if "flax" in packages(name)}
    assert users == {"models"}


@pytest.mark.parametrize("module", modules("ops", "losses"))
def test_ops_and_losses_compute_with_jax(module):
    assert packages(module, top_level_only=True) <= {"jax", "numpy", "jaxtyping"}
    assert packages(module) <= {"jax", "numpy", "jaxtyping", "scipy", "skimage"}


@pytest.mark.parametrize("module", modules("data", "metrics", "viz"))
def test_data_computes_with_numpy(module):
    assert packages(module, top_level_only=True) <= {"numpy", "jaxtyping"}
    assert not {"optax", "flax", "orbax"} & packages(module)


@pytest.mark.parametrize("module", [m for m in MODULES if part(m) not in ("commands", "cli")])
def test_heavy_libraries_are_imported_where_they_are_used(module):
    assert packages(module, top_level_only=True) <= {
        *("jax", "numpy", "flax", "optax", "orbax", "jaxtyping"),
    }


def test_collectives_are_in_one_file():
    names = {"psum", "pmean", "pmax", "pmin", "pcast", "pvary", "all_gather", "psum_scatter"}
    for module, tree in TREES.items():
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Attribute | ast.Name)
            and (node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id)
            == "lax"
        }
        assert module == "jaxseg.ops.collective" or not used & names, module


@pytest.mark.parametrize("module", MODULES)
def test_files_are_of_a_size_to_read(module):
    lines = len(MODULES[module].read_text().splitlines())
    assert lines <= 500, f"{lines} lines: two things share a room"


@pytest.mark.parametrize("module", MODULES)
def test_public_things_are_documented(module):
    bare = []

    def visit(node, prefix):
        if not ast.get_docstring(node):
            bare.append(prefix or module)
        for child in node.body:
            kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            if isinstance(child, kinds) and not child.name.startswith("_"):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                visit(child, f"{prefix}.{child.name}")

    visit(TREES[module], "")
    assert bare == []


def fresh(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120
    )


BLOCKED = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"{name} is not installed here")

*HEAVY, = sys.argv[1].split(",")
sys.meta_path.insert(0, Refuse())
for name in sys.argv[2:]:
    importlib.import_module(name)
    loaded = {m.partition(".")[0] for m in sys.modules} & set(HEAVY)
    assert not loaded, loaded
"""


def test_the_library_needs_no_heavy_package():
    names = ["jaxseg", "jaxseg.ops.slic", "jaxseg.losses", "jaxseg.methods.ssn", "jaxseg.train"]
    names += ["jaxseg.testing", "jaxseg.predictor", "jaxseg.data", "jaxseg.metrics", "jaxseg.viz"]
    result = fresh(BLOCKED, ",".join(HEAVY), *names)
    assert result.returncode == 0, result.stderr
    refused = fresh(BLOCKED, ",".join(HEAVY), "scipy.ndimage")
    assert "scipy is not installed here" in refused.stderr


def test_importing_the_package_starts_no_backend():
    program = "import jaxseg, jaxseg.methods.ssn, jaxseg.train\n"
    program += "from jax._src import xla_bridge\nassert not xla_bridge.backends_are_initialized()"
    result = fresh(program)
    assert result.returncode == 0, result.stderr
