"""Learn the byte-pair vocabulary that CLIP and the text-to-image model share.

    python data/makers/make_tokenizer.py

CLIP's own tokenizer class with merges learnt on captions of this world: every word of the
vocabulary becomes one token, and any other text still splits into bytes. Seconds on one core.
"""

import argparse
import json

import numpy as np
from tokenizers import Tokenizer, models, trainers
from transformers import CLIPTokenizer

from pasta_lib.world import captions
from pasta_lib.world.scenes import from_array, sample_prompts
from pasta_lib.world.weights import WORLD_DIR, write_manifest

FOLDER = "text_to_image/tokenizer"
MAX_TOKENS = 32
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def learn(texts: list[str], vocabulary_size: int) -> CLIPTokenizer:
    """A CLIPTokenizer whose end token has the highest id, as CLIP's text pooling expects."""
    reference = CLIPTokenizer()  # only for its normaliser and its splitting rule
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = reference.backend_tokenizer.normalizer
    bpe.pre_tokenizer = reference.backend_tokenizer.pre_tokenizer
    alphabet = list(_byte_alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, initial_alphabet=alphabet, end_of_word_suffix="</w>",
        show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    ends = [a + "</w>" for a in alphabet]  # any byte may end a word
    tokens = list(dict.fromkeys(alphabet + ends + tokens)) + list(SPECIAL)
    return CLIPTokenizer(
        vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=MAX_TOKENS
    )


def _byte_alphabet() -> list[str]:
    """The printable stand-ins that byte-level BPE uses for the 256 bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=50_000)
    parser.add_argument("--vocabulary", type=int, default=1500, help="upper bound on learnt tokens")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    said, _ = sample_prompts(arguments.captions, rng)
    texts = [captions.write(scene, rng) for scene in from_array(said)]
    tokenizer = learn(texts, arguments.vocabulary)
    tokenizer.save_pretrained(WORLD_DIR / FOLDER)
    lengths = [len(ids) for ids in tokenizer(texts).input_ids]
    print(f"{len(tokenizer)} tokens; captions have {np.mean(lengths):.1f}, at most {max(lengths)}")
    write_manifest([FOLDER])


if __name__ == "__main__":
    main()
