"""Paint scenes: batched torch code, the same on CPU and GPU, seeded.

A picture is a background, one to four sprites of the subject (or one of each of two subjects) in
loose positions, and a style that changes all of it. `colour` tints the sprite's own shading.
Everything here is ours.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pasta_lib.world.scenes import BACKGROUND, COLOUR, COUNT, SECOND, STYLE, SUBJECT
from pasta_lib.world.vocabulary import BACKGROUNDS, COLOURS, STYLES
from pasta_lib.world.weights import require

IMAGE_SIZE = 64
SPRITE_SIZE = 48
SPRITES_PER_ROW = 8
SHADOW = 0.35  # opacity of the soft shadow that lifts a white cat off a white background

TINTS = {
    "white": (0.97, 0.97, 1.0),
    "red": (0.90, 0.12, 0.14),
    "green": (0.15, 0.68, 0.22),
    "blue": (0.15, 0.38, 0.95),
    "purple": (0.60, 0.22, 0.82),
}
# (x, y, size) of each sprite as shares of the picture (sizes: 48, 36 or 24 pixels), by count;
# 5 is "one beside a second one".
# Centres lie on a grid of 8 pixels, and a picture shifts its sprites by 4 in one of four
# directions: they meet the autoencoder's patches always alike, so each is learnt once. That, and
# not more, is what a small denoiser can learn on a CPU.
SLOTS = {
    1: ((0.500, 0.500, 0.750),),
    2: ((0.250, 0.375, 0.375), (0.750, 0.625, 0.375)),
    3: ((0.500, 0.250, 0.375), (0.250, 0.750, 0.375), (0.750, 0.750, 0.375)),
    4: ((0.250, 0.250, 0.375), (0.750, 0.250, 0.375), (0.250, 0.750, 0.375), (0.750, 0.750, 0.375)),
    5: ((0.375, 0.375, 0.5625), (0.750, 0.750, 0.375)),
}
SHIFT = 4 / IMAGE_SIZE


def render(
    scenes: np.ndarray,
    generator: torch.Generator,
    device: str = "cpu",
    moves: Tensor | None = None,
) -> Tensor:
    """Pictures of *resolved* scenes.

    `scenes`: int `[B, 7]`, see `scenes.resolve`; `generator`: a CPU generator, so that a seed
    means the same picture on every device; `moves`: 0 or 1 `[B, 2]`, whether the subjects stand
    right and low, else left and high (8 pixels apart); drawn where not given.
    Returns float `[B, 3, 64, 64]` in 0..1.
    Raises ValueError where subject, colour, style, background or count is unsaid.
    """
    if (scenes[:, [SUBJECT, COLOUR, STYLE, BACKGROUND, COUNT]] < 0).any():
        raise ValueError("render needs resolved scenes; pass them through scenes.resolve first")
    scenes = torch.as_tensor(scenes).to(device)
    random = torch.rand(len(scenes), 64, generator=generator).to(device)
    noise = torch.randn(len(scenes), 1, IMAGE_SIZE, IMAGE_SIZE, generator=generator).to(device)
    ground = _backgrounds(scenes[:, BACKGROUND], random[:, :24])
    moves = random[:, 24:26] >= 0.5 if moves is None else moves.to(device)
    layer = _subjects(scenes, moves.float())
    pictures = torch.empty_like(ground)
    for code, paint in enumerate(_STYLE_FUNCTIONS.values()):
        rows = scenes[:, STYLE] == code
        if rows.any():
            pictures[rows] = paint(layer[rows], ground[rows], random[rows, 48:], noise[rows])
    return pictures.clamp_(0, 1)


def render_seeded(scenes: np.ndarray, seed: int, device: str = "cpu") -> Tensor:
    """`render` with a generator of its own."""
    return render(scenes, torch.Generator().manual_seed(seed), device)


# --- subjects ---------------------------------------------------------------------------------


@cache
def sprites(device: str = "cpu") -> Tensor:
    """Every subject in every colour, `[subjects, colours, 4, 48, 48]`, alpha premultiplied."""
    sheet = np.asarray(Image.open(require("sprites.png")).convert("RGBA"), np.float32) / 255
    tiles = sheet.reshape(-1, SPRITE_SIZE, SPRITES_PER_ROW, SPRITE_SIZE, 4).transpose(0, 2, 4, 1, 3)
    tiles = torch.from_numpy(tiles.reshape(-1, 4, SPRITE_SIZE, SPRITE_SIZE).copy())
    rgb, alpha = tiles[:, :3], tiles[:, 3:]
    shades = [rgb] + [_tint(rgb, alpha, TINTS[c]) for c in list(COLOURS)[1:]]
    coloured = torch.stack([torch.cat([s * alpha, alpha], 1) for s in shades], 1)
    return coloured.contiguous().to(device)


def _tint(rgb: Tensor, alpha: Tensor, tint: tuple[float, float, float]) -> Tensor:
    """Keep the sprite's shading, replace its hue: dark parts dark, light parts paler than the tint.

    The shading is stretched to the sprite's own range, so that a pale or a dark emoji keeps its
    lines in every colour.
    """
    light = _luminance(rgb)
    mean = (light * alpha).sum((2, 3), True) / alpha.sum((2, 3), True)
    spread = (((light - mean).square() * alpha).sum((2, 3), True) / alpha.sum((2, 3), True)).sqrt()
    shade = (0.58 + 0.2 * (light - mean) / spread.clamp(min=0.06)).clamp(0.08, 1)
    colour = torch.tensor(tint).view(1, 3, 1, 1)
    if min(tint) > 0.9:  # white: shading survives as greys near white
        return colour * (0.45 + 0.9 * shade).clamp(max=1.0) * (shade.clamp(max=0.45) / 0.45)
    dark = colour * (shade / 0.58)
    pale = colour + (1 - colour) * ((shade - 0.58) / 0.42 * 0.75)
    return torch.where(shade < 0.58, dark, pale)


def _subjects(scenes: Tensor, moves: Tensor) -> Tensor:
    """The sprites of each scene on nothing, float `[B, 4, 64, 64]`, alpha premultiplied."""
    device = scenes.device
    bank = sprites(str(device))
    layer = torch.zeros(len(scenes), 4, IMAGE_SIZE, IMAGE_SIZE, device=device)
    layout = torch.where(scenes[:, SECOND] >= 0, 5, scenes[:, COUNT])
    shift = (2 * moves - 1) * SHIFT
    for slot in range(4):
        table = torch.tensor(
            [[0, 0, 0]] + [(SLOTS[k] + ((0, 0, 0),) * 4)[slot] for k in range(1, 6)]
        )
        place = table.to(device).float()[layout]
        rows = (place[:, 2] > 0).nonzero()[:, 0]
        if not len(rows):
            break
        place = place[rows]
        centre = place[:, :2] + shift[rows]
        second = (layout[rows] == 5) & (slot == 1)
        subject = torch.where(second, scenes[rows, SECOND], scenes[rows, SUBJECT])
        colour = torch.where(second, 0, scenes[rows, COLOUR])
        sprite = _place(bank[subject, colour], centre, place[:, 2])
        layer[rows] = sprite + layer[rows] * (1 - sprite[:, 3:])
    return layer


def _place(sprite: Tensor, centre: Tensor, size: Tensor) -> Tensor:
    """Scale and move sprites onto the canvas. `centre` `[B, 2]`, `size` `[B]` in shares of it."""
    # Soften what shrinks a lot, so that thin lines average instead of vanishing.
    small = size * IMAGE_SIZE < 0.72 * SPRITE_SIZE
    sprite[small] = _blur(sprite[small], 0.6)
    theta = torch.zeros(len(sprite), 2, 3, device=sprite.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / size
    theta[:, :, 2] = (1 - 2 * centre) / size[:, None]
    grid = F.affine_grid(theta, [len(sprite), 4, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    return F.grid_sample(sprite, grid, align_corners=False)


# --- backgrounds ------------------------------------------------------------------------------

PLAIN = {
    "white": (0.96, 0.96, 0.95),
    "yellow": (1.0, 0.87, 0.25),
    "pink": (1.0, 0.67, 0.78),
    "teal": (0.15, 0.65, 0.65),
}


def _backgrounds(codes: Tensor, random: Tensor) -> Tensor:
    """float `[B, 3, 64, 64]`; `random` `[B, 24]` uniform numbers place stars, sun and hills."""
    out = torch.empty(len(codes), 3, IMAGE_SIZE, IMAGE_SIZE, device=codes.device)
    for code, name in enumerate(BACKGROUNDS):
        rows = codes == code
        if rows.any():
            painter = _PLACES.get(name)
            r = random[rows]
            out[rows] = painter(r) if painter else _plain(PLAIN[name], r)
    return out


def _axes(random: Tensor) -> tuple[Tensor, Tensor]:
    line = (torch.arange(IMAGE_SIZE, device=random.device) + 0.5) / IMAGE_SIZE
    return line.view(1, 1, 1, -1), line.view(1, 1, -1, 1)


def _rgb(r: float, g: float, b: float, like: Tensor) -> Tensor:
    return torch.tensor((r, g, b), device=like.device).view(1, 3, 1, 1)


def _blobs(x: Tensor, y: Tensor, radius: Tensor | float) -> Tensor:
    """Soft discs `[B, 1, 64, 64]`, the union of those centred at `x`, `y` `[B, n]`."""
    out = None
    for cx, cy in zip(x.unbind(1), y.unbind(1), strict=True):
        gx, gy = _axes(x)
        distance = (
            (gx - cx.view(-1, 1, 1, 1)).square() + (gy - cy.view(-1, 1, 1, 1)).square()
        ).sqrt()
        disc = ((radius - distance) * IMAGE_SIZE + 0.5).clamp(0, 1)
        out = disc if out is None else torch.maximum(out, disc)
    return out


def _plain(colour: tuple[float, float, float], random: Tensor) -> Tensor:
    _, y = _axes(random)
    light = 1.03 - 0.1 * y * random[:, :1, None, None]
    return (_rgb(*colour, random) * light).expand(-1, -1, -1, IMAGE_SIZE)


def _night(random: Tensor) -> Tensor:
    _, y = _axes(random)
    sky = _rgb(0.04, 0.05, 0.20, random) * (1 - y) + _rgb(0.14, 0.13, 0.36, random) * y
    sky = sky.expand(len(random), -1, -1, IMAGE_SIZE)
    stars = _blobs(random[:, :10], random[:, 10:20], 0.018)
    moon_x, moon_y = 0.1 + 0.12 * random[:, 20:21], 0.1 + 0.1 * random[:, 21:22]
    moon = (_blobs(moon_x, moon_y, 0.085) - _blobs(moon_x + 0.045, moon_y - 0.02, 0.075)).clamp(
        min=0
    )
    light = torch.maximum(stars * 0.9, moon)
    return sky + (_rgb(1.0, 0.97, 0.75, random) - sky) * light


def _sunset(random: Tensor) -> Tensor:
    _, y = _axes(random)
    sky = torch.lerp(
        _rgb(0.38, 0.20, 0.50, random), _rgb(1.0, 0.55, 0.25, random), (y / 0.75).clamp(max=1)
    )
    sky = sky.expand(len(random), -1, -1, IMAGE_SIZE)
    sun = _blobs(0.2 + 0.6 * random[:, :1], 0.70 + 0.04 * random[:, 1:2], 0.15)
    sky = sky + (_rgb(1.0, 0.85, 0.35, random) - sky) * sun
    land = ((y - 0.77 - 0.04 * random[:, 2:3, None, None]) * IMAGE_SIZE).clamp(0, 1)
    return sky + (_rgb(0.25, 0.12, 0.28, random) - sky) * land


def _meadow(random: Tensor) -> Tensor:
    x, y = _axes(random)
    sky = torch.lerp(_rgb(0.40, 0.70, 0.98, random), _rgb(0.75, 0.90, 1.0, random), y)
    wave = 0.03 * torch.sin(6.28 * (x + random[:, :1, None, None]))
    land = ((y - 0.60 - 0.06 * random[:, 1:2, None, None] + wave) * IMAGE_SIZE).clamp(0, 1)
    grass = torch.lerp(_rgb(0.50, 0.80, 0.30, random), _rgb(0.25, 0.60, 0.20, random), y)
    return torch.lerp(sky.expand(len(random), -1, -1, IMAGE_SIZE), grass, land)


def _snow(random: Tensor) -> Tensor:
    x, y = _axes(random)
    sky = torch.lerp(_rgb(0.55, 0.66, 0.80, random), _rgb(0.76, 0.84, 0.92, random), y)
    wave = 0.02 * torch.sin(6.28 * (0.7 * x + random[:, 22:23, None, None]))
    land = ((y - 0.74 + wave) * IMAGE_SIZE).clamp(0, 1)
    flakes = _blobs(random[:, :10], random[:, 10:20] * 0.8, 0.025)
    sky = sky.expand(len(random), -1, -1, IMAGE_SIZE)
    return sky + (0.98 - sky) * torch.maximum(land, flakes)


_PLACES = {"night": _night, "sunset": _sunset, "meadow": _meadow, "snow": _snow}


# --- styles -----------------------------------------------------------------------------------


def _luminance(rgb: Tensor) -> Tensor:
    return (rgb * _rgb(0.30, 0.59, 0.11, rgb)).sum(1, keepdim=True)


def _blur(x: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(2.5 * sigma))
    t = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (t / sigma).square())
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, (radius,) * 4, mode="replicate")
    x = F.conv2d(x, kernel, groups=x.shape[1])
    return F.conv2d(x, kernel.transpose(2, 3), groups=x.shape[1])


def _edges(x: Tensor) -> Tensor:
    """Length of the gradient, the largest over channels, `[B, 1, 64, 64]`."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    dx = x[..., 1:-1, 2:] - x[..., 1:-1, :-2]
    dy = x[..., 2:, 1:-1] - x[..., :-2, 1:-1]
    return (dx.square() + dy.square()).amax(1, keepdim=True).sqrt()


def _compose(layer: Tensor, ground: Tensor) -> Tensor:
    shadow = _blur(layer[:, 3:], 1.6)
    shadow = SHADOW * F.pad(shadow, (0, 0, 2, 0))[..., :-2, :]
    return layer[:, :3] + ground * (1 - shadow) * (1 - layer[:, 3:])


def _border(random: Tensor, width: float, wobble: float) -> Tensor:
    """1 inside a frame with a wavy edge, 0 outside. `[B, 1, 64, 64]`"""
    x, y = _axes(random)
    phase = 6.28 * random[:, :4, None, None].unsqueeze(2)
    wave_x = wobble * (torch.sin(19 * x + phase[:, 0]) + torch.sin(31 * x + phase[:, 1])) / 2
    wave_y = wobble * (torch.sin(19 * y + phase[:, 2]) + torch.sin(31 * y + phase[:, 3])) / 2
    edge_x = torch.minimum(x, 1 - x) - width + wave_y
    edge_y = torch.minimum(y, 1 - y) - width + wave_x
    return (torch.minimum(edge_x, edge_y) * IMAGE_SIZE / 1.5 + 0.5).clamp(0, 1)


def _flat(layer: Tensor, ground: Tensor, random: Tensor, noise: Tensor) -> Tensor:
    return _compose(layer, ground)


def _watercolour(layer: Tensor, ground: Tensor, random: Tensor, noise: Tensor) -> Tensor:
    """Paint that runs: soft, pale, darker where it dries at edges, on paper with a ragged rim."""
    picture = _blur(layer[:, :3] + _blur(ground, 2.0) * (1 - layer[:, 3:]), 0.7)
    rim = _edges(_blur(layer[:, 3:], 0.8))
    wash = 1 + 0.9 * F.interpolate(
        _blur(noise, 3.0)[..., ::2, ::2], scale_factor=2, mode="bilinear"
    )
    picture = 1 - (1 - picture) * 0.82 * wash
    picture = picture * (1 - 0.3 * rim)
    return torch.lerp(torch.ones_like(picture) * 0.985, picture, _border(random, 0.07, 0.035))


def _pixel_art(layer: Tensor, ground: Tensor, random: Tensor, noise: Tensor) -> Tensor:
    """Blocks of 2 pixels, few colours, a dark outline."""
    picture = F.avg_pool2d(layer[:, :3] + ground * (1 - layer[:, 3:]), 2)
    alpha = F.avg_pool2d(layer[:, 3:], 2)
    outline = (F.max_pool2d(alpha, 3, 1, 1) > 0.5) & (alpha <= 0.5)
    picture = (picture * 4).round() / 4
    picture = torch.where(outline, torch.full_like(picture, 0.08), picture)
    return F.interpolate(picture, scale_factor=2, mode="nearest")


def _pencil_sketch(layer: Tensor, ground: Tensor, random: Tensor, noise: Tensor) -> Tensor:
    """Graphite lines and hatching on paper that is washed faintly with the background's colours."""
    alpha = layer[:, 3:]
    grey = _luminance(layer[:, :3]) + (1 - alpha)
    line = (1.1 * _edges(torch.cat([grey, alpha], 1))).clamp(max=1)
    x, y = _axes(random)
    hatch = 0.5 + 0.5 * torch.sin((x + y) * IMAGE_SIZE * 1.9)
    tone = ((0.75 - grey) * 0.9).clamp(min=0) * hatch * alpha
    paper = 0.42 + 0.58 * ground.clamp(max=1)
    paper = paper + (0.93 - paper) * alpha * 0.85
    return (paper + 0.01 * noise) * (1 - 0.9 * torch.maximum(line, tone))


def _neon(layer: Tensor, ground: Tensor, random: Tensor, noise: Tensor) -> Tensor:
    """Glowing tubes along the subject's lines, in its colours, over a darkened background."""
    alpha = layer[:, 3:]
    hue = layer[:, :3] / alpha.clamp(min=0.05)
    top = hue.amax(1, keepdim=True)
    hue = (hue / top.clamp(min=0.15)).clamp(0, 1)
    bottom = hue.amin(1, keepdim=True)
    hue = (hue - 0.6 * bottom) / (1 - 0.6 * bottom).clamp(min=0.2)
    hue = _blur(hue * alpha, 1.0) / _blur(alpha, 1.0).clamp(min=0.05)
    line = (1.3 * _edges(torch.cat([layer[:, :3], alpha], 1))).clamp(max=1)
    glow = (hue * line + 0.9 * _blur(hue * line, 2.2)).clamp(max=1.2)
    dark = ground * 0.30 * (1 - 0.75 * alpha)
    return dark + glow + 0.25 * line.square()


def _vintage(layer: Tensor, ground: Tensor, random: Tensor, noise: Tensor) -> Tensor:
    """A faded print: half the colour gone to sepia, grain, dark corners, a cream frame."""
    picture = _compose(layer, ground)
    sepia = _luminance(picture) * _rgb(1.0, 0.84, 0.60, picture)
    picture = 0.12 + 0.78 * torch.lerp(picture, sepia, 0.45)
    picture = picture * (1 - 0.35 * _edges(_blur(layer[:, 3:], 0.7)))
    x, y = _axes(random)
    picture = picture * (1.08 - 1.3 * ((x - 0.5).square() + (y - 0.5).square()))
    picture = picture * _rgb(1.04, 0.98, 0.86, picture) + 0.015 * noise
    cream = _rgb(0.93, 0.88, 0.76, picture)
    return torch.lerp(cream.expand_as(picture), picture, _border(random, 0.055, 0.0))


_STYLE_FUNCTIONS = {
    "flat": _flat,
    "watercolour": _watercolour,
    "pixel art": _pixel_art,
    "pencil sketch": _pencil_sketch,
    "neon": _neon,
    "vintage": _vintage,
}
assert tuple(_STYLE_FUNCTIONS) == tuple(STYLES)
