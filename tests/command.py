"""The ``latentwire`` command in this process: as a user's, but quick."""

import asyncio
import io
import logging
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from latentwire.cli import main


@dataclass(frozen=True)
class Done:
    """A command's exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong; AssertionError if there is more, or it is no deliberate error."""
        lines = self.err.strip().splitlines()
        assert self.status == 1, (self.status, self.err)
        assert len(lines) == 1 and lines[0].startswith("error: "), self.err
        return lines[0].removeprefix("error: ")


def latentwire(*arguments: object) -> Done:
    """Run ``latentwire`` with ``arguments``; what it sets for its process is undone."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    logger = logging.getLogger("latentwire")
    level = logger.level
    with (
        mock.patch("sys.argv", ["latentwire", *map(str, arguments)]),
        mock.patch.dict(os.environ, {"COLUMNS": "160", "NO_COLOR": "1"}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            logger.setLevel(level)
    return Done(status, out.getvalue(), err.getvalue())


async def ctl(port: int, *args: str) -> str:
    """What ``latentwire ctl`` prints, as a process, to a server on this machine; AssertionError if it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "latentwire", "ctl", "--server", f"127.0.0.1:{port}", *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()
