"""What each user type likes best among the image bank's, in pictures and in words. Ours."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pasta_lib.clip_utility import unit
from pasta_lib.user_types import UserTypes
from pasta_lib.world.bank import image_ids
from pasta_lib.world.people import CATEGORY_OF
from pasta_lib.world.reachable import reachable
from pasta_lib.world.scenes import SUBJECT, SUBJECT_NAMES
from pasta_lib.world.vocabulary import CATEGORIES


@dataclass(frozen=True)
class Gallery:
    """`names` `[K, N]`, pictures of the bank; `words` `[K]`: the category of most of them, and the
    `said` colours, styles, backgrounds or numbers that the type likes more than other types do, by
    most: they are read off its head."""

    names: np.ndarray
    words: list[str]


@torch.no_grad()
def without_asking(types: UserTypes, pictures: Tensor) -> Tensor:
    """What each type sees in pictures `[..., D + V]`, whatever was asked for: `[..., K]`."""
    nothing = torch.cat([torch.zeros(types.utility.width), types.utility.asked])
    return types.utility(pictures, nothing)[..., types.order]


@torch.no_grad()
def favourites(
    types: UserTypes, pictures: Tensor, concepts: list[str], n: int = 10, said: int = 1
) -> Gallery:
    """Of every subject the picture that stands out most for a type, against the mean of all types;
    of those its `n` favourites. `pictures` `[members, 4, D + V]` of the bank, with concepts named
    `concepts`."""
    seen = pictures.flatten(0, 1)
    score = without_asking(types, seen)
    above = pd.DataFrame((score - score.mean(1, keepdim=True)).numpy())
    subject = np.repeat(reachable()[:, SUBJECT], pictures.shape[1])
    best_of = above[subject >= 0].groupby(subject[subject >= 0])  # of an idea it is not known
    rows = np.stack(
        [best_of[k].idxmax()[best_of[k].max().nlargest(n).index] for k in range(types.n_types)]
    )
    utility = types.utility
    likes = pd.DataFrame((utility.likes / unit(utility.shown))[types.order].T.numpy(), concepts)
    more = likes.sub(likes.mean(axis=1), axis=0).drop([*SUBJECT_NAMES, *CATEGORIES])
    words = []
    for k, mine in enumerate(rows):
        category = np.bincount(CATEGORY_OF[subject[mine]], minlength=len(CATEGORIES)).argmax()
        words.append(", ".join([CATEGORIES[category], *more[k].nlargest(said).index]))
    return Gallery(image_ids().ravel()[rows], words)
