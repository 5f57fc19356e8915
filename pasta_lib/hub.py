"""The full-size models: every hub model's id, revision and settings, in this one place.

    generate(load_pipeline(SDXL), ["two foxes at night"], [0], SDXL)
    ClipEncoder(CLIP_VIT_H_14).encode_texts(["two foxes at night"])

Nothing here is fetched until it is loaded. Revisions are commits of the hub's repositories, taken
from public code that pins the same ones; they were not fetched by us, since our machines cannot
reach the hub. To try another setting, `dataclasses.replace` one of these.
"""

from pasta_lib.encoders import EncoderConfig
from pasta_lib.generator import GeneratorConfig

# 7 GB in float16. Steps and guidance are diffusers' usual ones for it, not a paper's.
SDXL = GeneratorConfig(
    model="stabilityai/stable-diffusion-xl-base-1.0",
    revision="462165984030d82259a11f4367a4eed129e94a7b",
    steps=30,
    guidance=5.0,
    batch_size=4,
    device="cuda",
)

# open_clip calls it ViT-H-14, laion2b_s32b_b79k. 1,024 numbers an embedding, 3.9 GB.
CLIP_VIT_H_14 = EncoderConfig(
    model="hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    revision="1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    device="cuda",
)

# open_clip calls it ViT-L-14, openai. 768 numbers an embedding, 1.7 GB. It was trained with
# QuickGELU: we could not see whether the configuration at this revision says so.
CLIP_VIT_L_14 = EncoderConfig(
    model="hf-hub:timm/vit_large_patch14_clip_224.openai",
    revision="18d0535469bb561bf468d76c1d73aa35156c922b",
    device="cuda",
)
