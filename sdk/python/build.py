#!/usr/bin/env python3
"""Builds a Python workload into a component.

    python3 sdk/python/build.py PROJECT -o OUT.wasm

PROJECT is a folder with an `app.py`. The world is the one that its `skep.toml` names, or the one
given with `--world`. The contract is the folder `wit` in PROJECT if there is one, and that of this
repository otherwise; the component imports only what `skep.toml` grants it.

`componentize-py` is taken from the interpreter that runs this script, or else is installed, in
the version that `requirements.txt` pins, into a virtual environment under `--cache`.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"


def componentize(cache: Path) -> Path:
    """The `componentize-py` of the pinned version, installed where it is missing."""
    pinned = REQUIREMENTS.read_text()
    for folder in (Path(sys.prefix), cache):
        tool = folder / "bin" / "componentize-py"
        version = pinned.strip().split("==")[1]
        if tool.exists():
            found = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
            if found.split()[-1:] == [version]:
                return tool
    print(f"installing componentize-py into {cache}", file=sys.stderr)
    venv.create(cache, with_pip=True, clear=True)
    pip = [cache / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", REQUIREMENTS], check=True)
    return cache / "bin" / "componentize-py"


# What has to be granted, one of these, for an import of each package of the contract.
GRANTS = {
    "tensor": ["tensor"],
    "model": ["models"],
    "adapter": ["adapters", "models"],
    "swarm": ["swarm-read", "swarm-write"],
    "train": ["models"],
    "jobs": ["jobs"],
}


def manifest_of(project: Path) -> dict:
    with open(project / "skep.toml", "rb") as manifest:
        return tomllib.load(manifest)


def granted(wit: Path, grants: dict, copy: Path) -> None:
    """Copies the contract, and leaves out of its worlds what is not granted: a component has all
    imports of its world, and the node refuses one that has more than it is granted."""
    shutil.copytree(wit, copy, dirs_exist_ok=True)

    def kept(line: re.Match) -> str:
        return line[0] if any(grants.get(grant) for grant in GRANTS[line[1]]) else ""

    imports = rf"^ *import skep:({'|'.join(GRANTS)})/.*;\n"
    for file in copy.glob("*.wit"):
        file.write_text(re.sub(imports, kept, file.read_text(), flags=re.MULTILINE))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("project", type=Path)
    options.add_argument("-o", "--output", type=Path, required=True)
    options.add_argument("--world")
    options.add_argument("--cache", type=Path, default=HERE / ".venv")
    options.add_argument(
        "--wasi",
        action="store_true",
        help="keep Python's imports of WASI (clocks, randomness, standard output). Without it the "
        "component imports nothing but skep, and calling those ends the run",
    )
    options = options.parse_args()

    wit = options.project / "wit"
    if not wit.exists():
        wit = HERE.parent.parent / "wit"
    tool = componentize(options.cache.resolve())
    options.output.parent.mkdir(parents=True, exist_ok=True)
    manifest = manifest_of(options.project)
    world = options.world or manifest["component"]["world"]
    with tempfile.TemporaryDirectory() as copy:
        granted(wit, manifest.get("grants", {}), Path(copy))
        command = [tool, "-q", "-d", copy, "-w", world, "componentize"]
        command += ["-p", options.project, "-o", options.output]
        if not options.wasi:
            command.append("--stub-wasi")
        subprocess.run([*command, "app"], check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"build.py: {Path(error.cmd[0]).name} ended with status {error.returncode}")
