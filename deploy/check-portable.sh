#!/usr/bin/env bash
# The sensor where constriction is not: installed from wheels alone, without a compiler, in a bare container of IMAGE;
# there the golden vectors and the coder's tests, by the portable coder. HEAD of this repository is what is checked.
#
#     deploy/check-portable.sh python:3.11-slim-bookworm                # this machine's kind, constriction taken away
#     deploy/check-portable.sh python:3.11-slim-bookworm linux/arm64    # 64-bit ARM, where it never was (QEMU does)
set -euo pipefail
(($#)) || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
echo "commit $(git rev-parse --short HEAD)"
git archive HEAD | docker run --rm --init -i ${2:+--platform "$2"} "$1" sh -euc '
  mkdir /src && cd /src && tar x
  if command -v cc || command -v gcc; then echo "this image has a compiler: give another" >&2; exit 2; fi
  python -m venv /venv && PATH=/venv/bin:$PATH
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
  pip install -q --only-binary=:all: -c constraints.txt ".[sensor]"
  pip uninstall -q -y constriction
  pip install -q --only-binary=:all: -c constraints.txt pytest pytest-asyncio pytest-timeout hypothesis
  python -c "
import platform, sys
from latentwire.codec import coder
print(platform.platform(), platform.python_version(), coder.in_use())
sys.exit(coder.constriction is not None or coder.in_use() != \"portable\")"
  latentwire bundle verify digits
  latentwire bundle verify cifar10
  pytest -q -p no:cacheprovider -k "not without_constriction" tests/golden tests/unit/test_codec_coder.py \
    tests/unit/test_codec_portable.py tests/unit/test_docs_wire_format.py
'
