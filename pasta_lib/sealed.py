"""Which agent is A in a blind comparison: random, balanced, and sealed until the vote. Ours.

A biased coin (Efron 1971) decides: the side on which PASTA has been less often is twice as likely.
So sides even out, and who counts along is right two times in three at best. The log keeps the bit
masked by HMAC-SHA256 of the comparison's name, with a key that lies in a file of its own beside it.
That is blind for those who look, not for those who compute: an agent that is known can be replayed.
"""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from pasta_lib.visits import VisitError

AGENTS = ("pasta", "untrained")  # who play
KEY_BYTES = 32


def draw_sides(key: bytes, comparison: str, so_far: list[tuple[str, int]]) -> int:
    """Toss for a new comparison; the sealed bit. `so_far`: names and sealed bits of the others."""
    first = [unseal(key, *other)["A"] == AGENTS[0] for other in so_far]
    ahead = 2 * sum(first) - len(first)
    chance = {0: 3, 1: 2, -1: 4}[(ahead > 0) - (ahead < 0)]  # in six
    return int(secrets.randbelow(6) >= chance) ^ _mask(key, comparison)


def unseal(key: bytes, comparison: str, sealed: int) -> dict[str, str]:
    """Who is A, and who is B."""
    first = sealed ^ _mask(key, comparison)
    return {"A": AGENTS[first], "B": AGENTS[1 - first]}


def key_of(log: Path, known_by: str | None = None) -> bytes:
    """The key beside a log. With `known_by`, the `fingerprint` of the one it must be; without, one
    is made where there is none. Raises VisitError where it is gone, damaged or another one."""
    path = Path(log).with_suffix(".key")
    try:
        if known_by is None and not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as error:
        raise VisitError(_lost(path, f"can't be read or written ({error.strerror})")) from error
    if len(key) != KEY_BYTES:
        raise VisitError(_lost(path, f"is damaged: it has {len(key)} bytes, not {KEY_BYTES}"))
    if known_by not in (None, fingerprint(key)):
        raise VisitError(_lost(path, "is another one than this comparison was sealed with"))
    return key


def fingerprint(key: bytes) -> str:
    """By which a key is known, and which does not tell it."""
    return hmac.digest(key, b"fingerprint", hashlib.sha256)[:8].hex()


def _mask(key: bytes, comparison: str) -> int:
    return hmac.digest(key, comparison.encode(), hashlib.sha256)[0] & 1


def _make(path: Path) -> None:
    """Written whole and for its owner alone; of two tabs at once, the first one's stays."""
    part = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        os.link(part, path)
    part.unlink()


def _lost(path: Path, what: str) -> str:
    return (f"{path.name}, the key to who is A and who is B, {what}: put it back where the log is, "
            "or begin a new log.")  # fmt: skip
