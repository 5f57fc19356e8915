"""Which agent is A in a blind comparison: random, balanced, and sealed until the vote. Ours.

A biased coin (Efron 1971) decides: the side on which PASTA has been less often is twice as likely,
so sides even out and nobody can tell the next one. The log keeps the bit masked by HMAC-SHA256 of
the comparison's name, with a key that lies in a file of its own beside it.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from pasta_lib.visits import VisitError

AGENTS = ("pasta", "untrained")  # who play


def draw_sides(log: Path, comparison: str, so_far: list[tuple[str, int]]) -> int:
    """Toss for a new comparison; the sealed bit. `so_far`: names and sealed bits of the others."""
    ahead = sum(1 if unseal(log, *other)["A"] == AGENTS[0] else -1 for other in so_far)
    chance = {0: 3, 1: 2, -1: 4}[(ahead > 0) - (ahead < 0)]  # in six
    return int(secrets.randbelow(6) >= chance) ^ _mask(log, comparison, make=not so_far)


def unseal(log: Path, comparison: str, sealed: int) -> dict[str, str]:
    """Who is A, and who is B. Raises VisitError where the key is gone."""
    first = sealed ^ _mask(log, comparison)
    return {"A": AGENTS[first], "B": AGENTS[1 - first]}


def _mask(log: Path, comparison: str, make: bool = False) -> int:
    path = Path(log).with_suffix(".key")
    if make and not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(secrets.token_bytes(32))
        part.chmod(0o600)
        try:
            os.link(part, path)  # the first of two tabs wins
        except FileExistsError:
            pass
        finally:
            part.unlink()
    try:
        key = path.read_bytes()
    except OSError as error:
        raise VisitError(
            f"{path.name}, the key to who is A and who is B, can't be read ({error.strerror}): put "
            "it back where the log is, or begin a new log."
        ) from error
    return hmac.digest(key, comparison.encode(), hashlib.sha256)[0] & 1
