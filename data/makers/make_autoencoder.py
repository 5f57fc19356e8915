"""Compute the autoencoder of the text-to-image model from rendered scenes.

    python data/makers/make_autoencoder.py

Seconds on one CPU core: principal components, no training.
"""

import torch
from common import PoolConfig, load_pool, save_half

from pasta_lib.world.autoencoder import PatchAutoencoder
from pasta_lib.world.weights import WORLD_DIR, write_manifest

FOLDER = "text_to_image/vae"
PICTURES = 10_000


def main() -> None:
    pool = load_pool(PoolConfig())
    model = PatchAutoencoder.fit(pool.batch(slice(0, PICTURES), "cpu") * 2 - 1)
    fresh = pool.batch(slice(PICTURES, PICTURES + 2000), "cpu") * 2 - 1
    latents = model.encode(fresh).latent_dist.sample()
    error = (model.decode(latents).sample - fresh).square().mean() / 4
    print(
        f"PSNR {-10 * torch.log10(error):.1f} dB; latents: rms {latents.square().mean().sqrt():.3f}"
    )
    save_half(model, WORLD_DIR / FOLDER)
    write_manifest([FOLDER])


if __name__ == "__main__":
    main()
