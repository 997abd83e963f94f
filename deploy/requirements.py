"""Print the requirements of pyproject.toml with some extras, one a line: python requirements.py server

So that an image's dependencies are a layer of their own, and a change of code does not install them again.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = [name for argument in sys.argv[1:] for name in argument.split(",") if name]
for requirement in [*project["dependencies"], *(r for name in extras for r in project["optional-dependencies"][name])]:
    print(requirement)
