"""Draw every subject once from Noto Color Emoji into one transparent sprite sheet.

    python data/makers/make_sprites.py --font NotoColorEmoji.ttf

The font is Debian's fonts-noto-color-emoji (SIL OFL 1.1; version 2.042 was used). The sheet holds
the subjects in the order of the vocabulary, eight to a row, each trimmed and centred in its cell.
"""

import argparse
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pasta_lib.world.renderer import SPRITE_SIZE, SPRITES_PER_ROW
from pasta_lib.world.vocabulary import SUBJECTS
from pasta_lib.world.weights import WORLD_DIR, write_atomically, write_manifest

FONT_SIZE = 109  # the only size the bitmap font has


def draw_emoji(emoji: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One emoji, trimmed, scaled to the cell with alpha premultiplied so that edges stay clean."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((10, 10), emoji, font=font, embedded_color=True)
    trimmed = canvas.crop(canvas.getbbox())
    side = max(trimmed.size)
    square = Image.new("RGBA", (side, side))
    square.paste(trimmed, ((side - trimmed.width) // 2, (side - trimmed.height) // 2))
    pixels = np.asarray(square, np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    channels = [
        Image.fromarray(pixels[..., c]).resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.BOX)
        for c in range(4)
    ]
    small = np.stack([np.asarray(c) for c in channels], -1)
    small[..., :3] /= np.maximum(small[..., 3:], 1e-3)
    return Image.fromarray((small.clip(0, 1) * 255).round().astype(np.uint8), "RGBA")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", type=Path, required=True, help="path of NotoColorEmoji.ttf")
    arguments = parser.parse_args()
    font = ImageFont.truetype(str(arguments.font), FONT_SIZE)
    rows = math.ceil(len(SUBJECTS) / SPRITES_PER_ROW)
    sheet = Image.new("RGBA", (SPRITES_PER_ROW * SPRITE_SIZE, rows * SPRITE_SIZE))
    for i, subject in enumerate(SUBJECTS.values()):
        row, column = divmod(i, SPRITES_PER_ROW)
        sheet.paste(draw_emoji(subject.emoji, font), (column * SPRITE_SIZE, row * SPRITE_SIZE))
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    write_atomically(WORLD_DIR / "sprites.png", png.getvalue())
    write_manifest(["sprites.png"])


if __name__ == "__main__":
    main()
