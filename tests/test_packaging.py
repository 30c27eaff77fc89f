"""The house of DESIGN section 2: which room may import what, what an import costs, and what lands in a wheel."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from qvggt.jobs.job import JOBS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("export", "engines", "calib", "eval")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

BASE = {"base"}
MODEL = BASE | {"formats", "models", "quant"}
CORE = MODEL | {"rotation", "onnx_view", "data", "hub"}
MAY_IMPORT = {  # DESIGN section 2; "base" is what lies in qvggt/ itself
    "base": BASE,
    "formats": BASE | {"formats"},
    "models": BASE | {"models"},
    "quant": MODEL,
    "rotation": MODEL | {"rotation"},
    "onnx_view": BASE | {"formats", "onnx_view"},
    "data": BASE | {"data"},
    "hub": MODEL | {"hub"},
    "calib": CORE | {"calib"},
    "export": CORE | {"export"},
    "engines": CORE | {"engines"},
    "eval": CORE | {"engines", "eval"},
    "jobs": CORE | {"calib", "export", "engines", "eval", "jobs"},
    "cli": BASE | {"jobs", "cli"},
    "api": CORE | {"calib", "export", "engines", "eval", "jobs", "api"},
}
BASE_PACKAGES = {"torch", "numpy", "safetensors", "tqdm"}
PACKAGES = {  # of others; where it is not here, a room may import what the project depends on
    "base": BASE_PACKAGES | {"matplotlib"},  # of `Predictions.plot`
    "formats": {"torch", "numpy"},
    "models": {"torch"},
    "quant": {"torch", "numpy", "safetensors"},
    "rotation": {"torch", "numpy"},
    "onnx_view": {"onnx", "numpy"},
    "data": {"numpy", "PIL", "torch", "av", "pillow_heif", "scipy"},  # MATLAB files, rotations
    "hub": {"torch", "huggingface_hub", "jinja2"},
}
RUNTIMES = {"onnx", "onnxruntime", "openvino", "polygraphy", "tensorrt", "tensorrt_rtx"}
OPTIONAL = {
    "matplotlib",
    "openvino",
    "polygraphy",
    "tensorrt",
    "tensorrt_rtx",
    "trimesh",
    "pycolmap",
    "av",
    "pillow_heif",
}
OPTIONAL |= {"gradio", "jinja2", "rerun", "viser"}
COMMAND_LINE = {"typer", "click"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class Import:
    """One imported module; `lazy`: not at import time, as it is in a function or for the type checker only."""

    module: str
    lazy: bool
    place: str

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    def __str__(self) -> str:
        return f"{self.place} imports {self.module}"


def room_of(module: str) -> str:
    """qvggt.engines.runner -> engines; qvggt.api -> api; a module that lies in qvggt/ itself -> base."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "base"


def sources(room: str) -> list[Path]:
    package = ROOT / "qvggt"
    if room == "base":
        return sorted(set(package.glob("*.py")) - set(sources("api")))
    if room == "api":
        return [package / "api.py", package / "__init__.py"]  # what Python programs see
    return sorted((ROOT / room if room in ROOMS else package / room).rglob("*.py"))


def imports_of(path: Path) -> list[Import]:
    return list(imports_in(ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(ROOT))))


def imports_in(tree: ast.AST, name: str, lazy: bool = False) -> Iterator[Import]:
    """`from qvggt import engines` counts as qvggt.engines."""
    for node in ast.iter_child_nodes(tree):
        place = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy, place) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place}: relative import; write the full name"
            full = [f"qvggt.{alias.name}" for alias in node.names] if node.module == "qvggt" else [str(node.module)]
            yield from (Import(module, lazy, place) for module in full)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from imports_in(ast.Module(node.body, []), name, lazy=True)
            yield from imports_in(ast.Module(node.orelse, []), name, lazy)
        else:
            yield from imports_in(node, name, lazy or isinstance(node, FUNCTIONS))


def imports(room: str) -> list[Import]:
    files = sources(room)
    assert files, f"no source file of {room}: the test looks in the wrong place"
    return [found for path in files for found in imports_of(path)]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows(room: str) -> None:
    ours = [found for found in imports(room) if found.package == "qvggt"]
    wrong = [str(found) for found in ours if room_of(found.module) not in MAY_IMPORT[room]]
    assert not wrong, f"{room} may import {sorted(MAY_IMPORT[room])} only"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_tool_or_test_is_imported(room: str) -> None:
    names = {path.stem for path in (ROOT / "tools").iterdir()} | {"tests", "tools"}
    assert not [str(found) for found in imports(room) if found.package in names]


@pytest.mark.parametrize("room", PACKAGES)
def test_a_room_needs_few_packages(room: str) -> None:
    allowed = PACKAGES[room] | {"qvggt", "__future__"} | sys.stdlib_module_names
    assert not [str(found) for found in imports(room) if found.package not in allowed]


def test_calibration_knows_no_runtime() -> None:
    assert not [str(found) for found in imports("calib") if found.package in RUNTIMES]


def test_the_front_of_the_package_is_lazy() -> None:
    front = imports_of(ROOT / "qvggt" / "__init__.py")
    assert {found.module for found in front if not found.lazy} <= {"typing", "qvggt.errors", "qvggt.threads"}


@pytest.mark.parametrize("room", [room for room in MAY_IMPORT if room != "cli"])
def test_only_commands_know_the_command_line(room: str) -> None:
    assert not [str(found) for found in imports(room) if found.package in COMMAND_LINE]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_optional_packages_are_imported_where_used(room: str) -> None:
    late = OPTIONAL | ({"PIL", "huggingface_hub"} if room not in (*ROOMS, "cli") else set())
    assert not [str(found) for found in imports(room) if not found.lazy and found.package in late]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_one_module_knows_the_hub(room: str) -> None:
    users = {path for path in sources(room) for found in imports_of(path) if found.package == "huggingface_hub"}
    assert users == ({ROOT / "qvggt" / "hub" / "client.py"} if room == "hub" else set())


def source_of(entry: str) -> str:
    """qvggt.cli.main:main -> qvggt/cli/main.py."""
    return entry.split(":")[0].replace(".", "/") + ".py"


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `statement`."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_no_extra_brings_a_second_onnxruntime() -> None:
    """onnxruntime and onnxruntime-gpu are one module in two packages: both at once are neither."""
    base, extras = PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"]
    assert [line for line in base if line.startswith("onnxruntime")] == ["onnxruntime>=1.22"]
    assert not [line for lines in extras.values() for line in lines if line.startswith("onnxruntime")]


JOB_MODULES = sorted({entry.split(":")[0] for entry in JOBS.values() if (ROOT / source_of(entry)).is_file()})
HEAVY = {"onnx", "onnxruntime", "sklearn", "scipy", "matplotlib", "openvino", "polygraphy", "typer", "huggingface_hub"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import qvggt", HEAVY | {"torch", "numpy", "PIL"}),
        ("import qvggt.models.vggt.network, qvggt.quant, qvggt.data.images", HEAVY | {"PIL"}),
        ("import qvggt.calib.rtn", {"onnx", "onnxruntime", "typer", "matplotlib"}),
        ("import qvggt.onnx_view.network_facts, qvggt.onnx_view.cut", (HEAVY | {"torch", "safetensors"}) - {"onnx"}),
        (
            "; ".join(f"import {entry.split(':')[0]}" for entry in PROJECT["project"]["scripts"].values()),
            (HEAVY | {"torch", "numpy", "PIL"}) - {"typer"},
        ),
        ("; ".join(f"import {module}" for module in JOB_MODULES), HEAVY | {"torch", "numpy", "PIL"}),
    ],
    ids=["qvggt", "core", "calib", "onnx_view", "commands", "jobs"],
)
def test_import_stays_light(statement: str, absent: set[str]) -> None:
    assert not loaded_after(statement) & absent


def test_linting_a_file_needs_no_torch(tmp_path: Path) -> None:
    """The whole command on a file with a quantized linear, not its import alone."""
    import onnx.parser

    text = """<ir_version: 10, opset_import: ["": 21]>
        g (float[n, 2] x) => (float[n, 2] y) <float s = {0.1}, int8 zero = {0}, int8[2, 2] codes = {1, 2, 3, 4}> {
            q = QuantizeLinear(x, s, zero)
            d = DequantizeLinear(q, s, zero)
            w = DequantizeLinear(codes, s)
            y = MatMul(d, w)
        }"""
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    loaded = loaded_after(calls(["lint", str(tmp_path / "m.onnx")], code=0))
    assert "onnx" in loaded
    assert not loaded & {"torch", "onnxruntime", "safetensors"}


MISTAKES = {
    "export": """
        tiny -o m.bin
        no-such.safetensors -o m.onnx
        tiny -o m.onnx --bits w3a3
        tiny -o m.onnx --act sometimes
        tiny -o m.onnx --act static
        tiny -o m.onnx --parts dino,eyes
        tiny -o m.onnx --override fc1
        tiny -o m.onnx --override fc1=w3a3
        tiny -o m.onnx --outputs pose,nose
        tiny -o m.onnx --outputs ,
        tiny -o m.onnx --size big
        tiny -o m.onnx --frames 8:1:2
        tiny -o m.onnx --parity-frames 0
        tiny -o m.onnx --parity-sequences -1
        tiny -o m.onnx --target tpu
        tiny -o m.onnx --precision int8
        tiny -o m.onnx --bits fp16 --precision bf16
        tiny -o m.onnx --fused-attention --target tensorrt
        tiny -o m.onnx --data no-such-folder
        tiny -o m.onnx --calib no-such-folder
        tiny -o m.onnx --revision main
        tiny -o taken.onnx
        tiny -o m.onnx --report taken.onnx
        tiny -o m.onnx --threads 0
        tiny -o m.onnx --json taken.onnx
        tiny -o m.onnx --bogus""",
    "build": """
        no-such.onnx -o m.engine
        taken.onnx -o m.onnx
        taken.onnx -o taken.engine
        taken.onnx -o m.engine --cc sm_86
        taken.onnx -o m.engine --cc 8.6 --backend trtexec
        taken.onnx -o m.engine --frames 8:1
        taken.onnx -o m.engine --backend cuda
        taken.onnx -o m.engine --precision int8""",
    "lint": """
        no-such.onnx
        taken.onnx --target tpu
        taken.onnx --bogus""",
}
"""Command -> what follows it in a wrong call; taken.* are files."""


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_costs_no_heavy_import(command: str, tmp_path: Path) -> None:
    for name in ("taken.onnx", "taken.engine"):
        (tmp_path / name).write_text("mine")
    lines = [[command, *line.split()] for line in MISTAKES[command].strip().splitlines()]
    loaded = loaded_after(f"import os; os.chdir({str(tmp_path)!r})\n" + calls(*lines, code=2))
    assert not loaded & ((HEAVY | {"torch", "numpy", "PIL", "safetensors"}) - {"typer"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.engine", "taken.onnx"]


def calls(*lines: list[str], code: int) -> str:
    """Statements that run command lines, one after the other, and want each to end with `code`."""
    return (
        "from qvggt.cli.main import main\n"
        f"for line in {list(lines)!r}:\n"
        "    try: main(line)\n"
        f"    except SystemExit as end: assert end.code == {code}, (line, end.code)"
    )


def packages_on_disk() -> set[str]:
    """Import names of all folders that hold Python files."""
    names = set()
    for folder in ("qvggt", *ROOMS):
        prefix = "" if folder == "qvggt" else "qvggt."
        for path in (ROOT / folder).rglob("*.py"):
            names.add(prefix + ".".join(path.parent.relative_to(ROOT).parts))
    return names


def test_every_package_is_listed() -> None:
    assert packages_on_disk() == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_package_has_an_init() -> None:
    folders = {path.parent for room in MAY_IMPORT for path in sources(room)}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_command_exists() -> None:
    for entry in PROJECT["project"]["scripts"].values():
        module, function = entry.split(":")
        assert (ROOT / source_of(entry)).is_file(), entry
        assert callable(getattr(import_module(module), function)), entry


def test_constraints_satisfy_the_lower_bounds() -> None:
    from packaging.requirements import Requirement

    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(pin.name.lower().replace("_", "-"), []).append(pin)
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, wanted):
        found = pins.get(requirement.name.lower().replace("_", "-"), [])
        assert found, f"constraints.txt: no version of {requirement.name}"
        for python in ("3.10", "3.11", "3.13"):
            valid = [p for p in found if p.marker is None or p.marker.evaluate({"python_version": python})]
            assert len(valid) == 1, f"constraints.txt: {requirement.name} on Python {python}: {len(valid)} versions"
            (version,) = valid[0].specifier
            assert version.operator == "==", valid[0]
            assert requirement.specifier.contains(version.version), f"{valid[0]} is below {requirement}"


@pytest.mark.slow
def test_wheel_holds_one_package_with_its_data(tmp_path: Path) -> None:
    """Built from a copy, as a build leaves its own folders behind; needs the network or a cache for setuptools."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("qvggt", *ROOMS):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(copy)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"qvggt"}
    for package in packages_on_disk():
        assert f"{package.replace('.', '/')}/__init__.py" in names
    assert "qvggt/py.typed" in names
    assert "qvggt/weights/tiny/model.safetensors" in names
    for folder in ("html", "demo"):  # templates, style and script of the pages
        data = {path.name for path in (ROOT / "eval" / folder).iterdir() if path.suffix in (".jinja", ".css", ".js")}
        assert {f"qvggt/eval/{folder}/{name}" for name in data} <= names
    assert {f"qvggt/eval/html/vendor/{name}" for name in ("three.min.js", "three.LICENSE")} <= names
    assert "qvggt/hub/card.md.jinja" in names
    assert {Path(name).name for name in names if ".dist-info/" in name} >= {"LICENSE", "NOTICE", "entry_points.txt"}
