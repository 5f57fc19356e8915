"""The renderer: right colours, places and counts; seeded; independent of the batch."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from pasta_lib.world import renderer
from pasta_lib.world.renderer import IMAGE_SIZE, render, render_seeded, sprites
from pasta_lib.world.scenes import (
    COLOUR_NAMES,
    STYLE_NAMES,
    SUBJECT_NAMES,
    Scene,
    sample_scenes,
    to_array,
)


def picture(scene: Scene, seed: int = 0) -> torch.Tensor:
    return render_seeded(to_array([scene]), seed)[0]


def test_shape_range_and_seed():
    scenes = sample_scenes(40, np.random.default_rng(0), held_out=None)
    a, b, c = render_seeded(scenes, 1), render_seeded(scenes, 1), render_seeded(scenes, 2)
    assert a.shape == (40, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert a.min() >= 0
    assert a.max() <= 1
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_picture_does_not_depend_on_its_neighbours():
    scenes = sample_scenes(12, np.random.default_rng(1), held_out=None)
    together = render(scenes, torch.Generator().manual_seed(5))
    other = sample_scenes(12, np.random.default_rng(2), held_out=None)
    other[3] = scenes[3]
    among_others = render(other, torch.Generator().manual_seed(5))
    assert (together[3] - among_others[3]).abs().max() < 1e-5


def test_moves_say_where_subjects_stand_by_eight_pixels():
    scenes = to_array([Scene("fox", style="flat", background="white")] * 20)
    moving = render(scenes, torch.Generator().manual_seed(5))
    colourful = lambda x: (x.amax(1) - x.amin(1) > 0.3).float()  # noqa: E731 - the fox, not paper
    assert len(colourful(moving).unique(dim=0)) == 4
    moves = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    four = colourful(render(scenes[:4], torch.Generator().manual_seed(5), moves=moves))
    assert torch.equal(four[0, :, :-8], four[1, :, 8:])  # to the right
    assert torch.equal(four[0, :-8], four[2, 8:])  # down
    assert torch.equal(four[0, :-8, :-8], four[3, 8:, 8:])
    assert all(any(torch.equal(f, place) for place in colourful(moving)) for f in four)


def test_unresolved_scenes_are_refused():
    with pytest.raises(ValueError, match="resolve"):
        render_seeded(to_array([Scene("cat")]), 0)


def test_sheet_holds_every_subject_whole():
    bank = sprites()
    assert bank.shape == (len(SUBJECT_NAMES), len(COLOUR_NAMES), 4, 48, 48)
    cover = bank[:, 0, 3].mean((1, 2))
    assert cover.min() > 0.15  # nothing is empty or a speck
    assert (bank[:, :, :3] <= bank[:, :, 3:] + 1e-5).all()  # alpha is premultiplied


@pytest.mark.parametrize(("colour", "channel"), [("red", 0), ("green", 1), ("blue", 2)])
def test_tints_have_their_hue_for_every_subject(colour, channel):
    layer = sprites()[:, COLOUR_NAMES.index(colour)]
    mean = layer[:, :3].sum((2, 3)) / layer[:, 3:].sum((2, 3))
    assert (mean.argmax(1) == channel).all()


def test_white_is_pale_and_grey():
    layer = sprites()[:, COLOUR_NAMES.index("white")]
    mean = layer[:, :3].sum((2, 3)) / layer[:, 3:].sum((2, 3))
    assert mean.min() > 0.6
    assert (mean.amax(1) - mean.amin(1)).max() < 0.05


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_as_many_sprites_as_counted(count):
    # blue discs on white: connected blue regions are the sprites
    pixels = picture(Scene("circle", "blue", "flat", "white", count))
    blue = (pixels[2] - pixels[0] > 0.25).numpy()
    assert label(blue)[1] == count


def test_second_subject_stands_lower_right_and_keeps_its_own_colour():
    pixels = picture(Scene("circle", "blue", "flat", "white", 1, "triangle"))
    red = (pixels[0] - pixels[2] > 0.3).nonzero().float().mean(0)
    blue = (pixels[2] - pixels[0] > 0.3).nonzero().float().mean(0)
    assert (red > blue + 10).all()


def test_styles_differ_at_a_glance():
    scenes = [Scene("fox", "natural", style, "yellow") for style in STYLE_NAMES]
    pictures = render_seeded(to_array(scenes), 3)
    gaps = torch.cdist(pictures.flatten(1), pictures.flatten(1)) / (3 * 64 * 64) ** 0.5
    assert gaps[~torch.eye(len(scenes), dtype=bool)].min() > 0.08


def test_pencil_hides_colour_and_flat_shows_it():
    by_style = {}
    for style in ("pencil sketch", "flat"):
        scenes = [Scene("cat", c, style, "white") for c in ("red", "blue")]
        red, blue = render_seeded(np.concatenate([to_array([s]) for s in scenes]), 4)[
            :, :, 20:44, 20:44
        ]
        by_style[style] = ((red[0] - red[2]) - (blue[0] - blue[2])).abs().mean()
    assert by_style["pencil sketch"] < 0.05 < 0.4 < by_style["flat"]


def test_pixel_art_is_made_of_blocks():
    pixels = picture(Scene("rocket", "natural", "pixel art", "meadow"))
    blocks = pixels.reshape(3, 32, 2, 32, 2)
    assert (blocks.amax((2, 4)) - blocks.amin((2, 4))).max() < 1e-6


def test_backgrounds_have_their_colours():
    corner = {
        name: picture(Scene("star", "natural", "flat", name))[:, :2, :2].mean((1, 2))
        for name in ("white", "yellow", "pink", "teal", "night", "meadow")
    }
    assert corner["white"].min() > 0.9
    assert corner["yellow"][:2].min() > 0.8 > 0.4 > corner["yellow"][2]
    assert corner["night"].max() < 0.4
    assert corner["teal"].argmin() == 0
    assert corner["pink"].argmax() == 0
    assert corner["meadow"].argmax() == 2  # the sky


def test_sprites_do_not_leave_the_canvas():
    for count in (1, 2, 3, 4):
        for x, y, size in renderer.SLOTS[count]:
            reach = size / 2 + renderer.SHIFT
            assert min(x, y) - reach + 0.02 >= 0
            assert max(x, y) + reach - 0.02 <= 1
