"""Who may be at the other end of a connection: a role and a name, written as a URI in certificates and token files.

::

    latentwire://sensor/cam-1      streams under that name, and fetches bundles
    latentwire://admin/alice       calls Control, and fetches bundles
    latentwire://server/fog-1      a server itself: health checks, no more

A name is percent-encoded where a URI needs it.
"""

from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import quote, unquote

CA_DAYS = 3650  # how long an authority is good
DAYS = 365  # and what it issues
SCHEME = "latentwire://"
MAX_NAME_CHARACTERS = 128  # as a sensor's name in its hello

Role = Literal["sensor", "admin", "server"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A role and a name of 1 to 128 printable characters; ``ValueError`` otherwise."""

    role: Role
    name: str

    def __post_init__(self) -> None:
        """Check both."""
        if self.role not in get_args(Role):
            raise ValueError(f"a role is one of {', '.join(get_args(Role))}, not {self.role!r}")
        if not 1 <= len(self.name) <= MAX_NAME_CHARACTERS or not self.name.isprintable():
            raise ValueError(f"a name has 1 to {MAX_NAME_CHARACTERS} printable characters, not {self.name[:200]!r}")

    def __str__(self) -> str:
        """For people and logs: ``sensor 'cam-1'``."""
        return f"{self.role} {self.name!r}"

    @property
    def uri(self) -> str:
        """As certificates and token files have it; ASCII."""
        return f"{SCHEME}{self.role}/{quote(self.name, safe='')}"

    @classmethod
    def of_uri(cls, uri: str) -> "Identity":
        """What ``uri`` says; ``ValueError`` if it is none of ours."""
        role, slash, name = uri.removeprefix(SCHEME).partition("/")
        if not uri.startswith(SCHEME) or not slash or "/" in name:
            raise ValueError(f"an identity is {SCHEME}ROLE/NAME, not {uri[:200]!r}")
        return cls(role, unquote(name, errors="strict"))  # type: ignore[arg-type]  # checked there
