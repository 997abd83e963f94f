"""The generated code in latentwire/v1: write it from proto/, or check that it is what proto/ makes.

    python tools/stubs.py write
    python tools/stubs.py check     # exit status 1 and the names of what differs

Run with the `dev` extra's exact grpcio-tools and mypy-protobuf, which is what `make proto` and `make check` do.
"""

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = Path("latentwire/v1")


def generate(into: Path) -> None:
    """Run protoc over every schema; ``into`` gets latentwire/v1/*_pb2*.py and .pyi."""
    scripts = Path(sysconfig.get_path("scripts"))
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO)),
            *(f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
            *(f"--{kind}_out={into}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")),
            *sorted(path.relative_to(PROTO).as_posix() for path in PROTO.rglob("*.proto")),
        ],
        check=True,
        cwd=PROTO,
    )


def read(root: Path) -> dict[str, bytes]:
    """File name -> bytes of every generated file below ``root``."""
    return {path.name: path.read_bytes() for path in (root / STUBS).glob("*_pb2*.py*")}


def check() -> int:
    """Name what differs; 0 if nothing does."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        wanted, found = read(Path(folder)), read(ROOT)
    differing = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    for name in differing:
        print(f"{STUBS / name} is not what proto/ makes: run `make proto`", file=sys.stderr)
    if not differing:
        print(f"{STUBS}: {len(found)} files are what proto/ makes")
    return 1 if differing else 0


def write() -> int:
    """Replace every generated file."""
    for name in read(ROOT):
        (ROOT / STUBS / name).unlink()
    generate(ROOT)
    return 0


if __name__ == "__main__":
    actions = {"write": write, "check": check}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.exit(__doc__)
    sys.exit(actions[sys.argv[1]]())
