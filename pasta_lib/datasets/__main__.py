"""Real data into the project's form, in one command; see data/README.md for where to get them.

python -m pasta_lib.datasets pickapic train-*.parquet --training --out prepared/pickapic
python -m pasta_lib.datasets hpd_rankings test.json --images hpd/test --out prepared/hpd
python -m pasta_lib.datasets hpd_pairs train.json --images hpd/train --out prepared/hpd_pairs
python -m pasta_lib.datasets sac sac_public_2022_06_29.sqlite --images sac --out prepared/sac
python -m pasta_lib.datasets pasta_picks sessions.parquet --images pictures --out prepared/picks \
    --mapping person_id=rater initial_prompt=prompt

Interrupted, it goes on when it is started again: vectors are remembered in the cache.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from pasta_lib import hub
from pasta_lib.datasets.hpd import as_choices, read_hpd_pairs, read_hpd_rankings
from pasta_lib.datasets.pasta import judgements, picks, read_sessions
from pasta_lib.datasets.pickapic import read_pickapic
from pasta_lib.datasets.prepared import file_content, prepare
from pasta_lib.datasets.rows import Account, Rows
from pasta_lib.datasets.sac import read_sac
from pasta_lib.encoders import ClipEncoder, EncoderConfig


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pasta_lib.datasets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("schema", choices=READERS)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--images", type=Path, help="folder of picture files, if data name them")
    parser.add_argument("--training", action="store_true", help="weigh pairs as PickScore did")
    parser.add_argument("--mapping", nargs="*", default=[], metavar="OURS=THEIRS")
    parser.add_argument("--clip", choices=CLIPS, default="ViT-H-14")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cache", help="folder of vectors; inside --out unless said")
    a = parser.parse_args(arguments)
    cache = a.cache or str(a.out / "cache")
    encoder = ClipEncoder(replace(CLIPS[a.clip], device=a.device, cache=cache))
    account = Account()
    rows = tqdm(READERS[a.schema](a, account), desc=a.schema, unit="batch")
    data = prepare(rows, a.out, account, encoder, file_content(a.images))
    print(f"{account}\n{data.n_observations:,} observations by {data.n_people:,} people in {a.out}")


def _sessions(observe) -> Callable:
    """Reader of what `observe` finds in sessions."""

    def read(a: argparse.Namespace, account: Account) -> Iterator[Rows]:
        mapping = dict(pair.split("=", 1) for pair in a.mapping)
        return (observe(read_sessions(path, account, mapping))[0] for path in a.files)

    return read


READERS: dict[str, Callable[[argparse.Namespace, Account], Iterator[Rows]]] = {
    "pickapic": lambda a, account: read_pickapic(a.files, account, training=a.training),
    "hpd_rankings": lambda a, account: (
        as_choices(read_hpd_rankings(path, account)) for path in a.files
    ),
    "hpd_pairs": lambda a, account: (read_hpd_pairs(path, account) for path in a.files),
    "sac": lambda a, account: (rows for path in a.files for rows in read_sac(path, account)),
    "pasta_picks": _sessions(picks),
    "pasta_judgements": _sessions(judgements),
}
CLIPS = {
    "ViT-H-14": hub.CLIP_VIT_H_14,
    "ViT-L-14": hub.CLIP_VIT_L_14,
    "miniature": EncoderConfig(),
}

if __name__ == "__main__":
    main()
