"""Prompt expansions by a language model: PASTA's candidate generator, through `transformers`.

The paper's is Gemini 1.5 Flash; any causal language model takes its place, by id and revision. It
is asked for JSON, an object with five texts under each of the five categories, and nothing else is
taken: an answer that is not quite that is sent back once, with what was wrong, and the second
refusal is an error. The wording of the request is ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pasta_lib.candidates import CATEGORIES, EACH

Ask = Callable[[str], str]
"""A request → the model's answer."""

LONGEST = 300  # characters of an expansion

REQUEST = """You help a person to find the picture they have in mind. They asked for:
{prompt}
What they were shown since then, turn by turn, and what they picked:
{history}
The prompt that stands now is:
{current}
Write {each} new prompts for a text-to-image model in each of these categories:
- "rephrase": the same picture in other words
- "elaboration": the same picture with one more detail
- "style": the same picture in another style
- "subject change": another subject in the same style and setting
- "creative": something new that they may like
Answer with one JSON object and nothing else: the five categories are its keys, and under each is a
list of {each} different prompts, at most {longest} characters long.
"""

REPAIR = """{request}
Your last answer could not be used: {fault}
It began: {answer}
Answer again, with the JSON object alone.
"""


class BadExpansions(ValueError):
    """What a language model wrote is no set of expansions."""


def expand(
    ask: Ask, prompt: str, turns: Sequence[tuple[Sequence[str], int | None]] = ()
) -> dict[str, list[str]]:
    """Five expansions in each category, for the next slate.

    `prompt`: what was asked for at first; `turns`: each one's slate of texts, and which of them was
    picked (None: none of these). Asks once more if the answer is not as it should be; raises
    `BadExpansions`, with both faults, if that fails too.
    """
    current, lines = prompt, []
    for number, (slate, chosen) in enumerate(turns, 1):
        if chosen is not None and not 0 <= chosen < len(slate):
            raise ValueError(f"Turn {number}: {chosen} is no text of a slate of {len(slate)}.")
        picked = "none of them" if chosen is None else json.dumps(slate[chosen], ensure_ascii=False)
        lines.append(f"{number}. shown {json.dumps(list(slate), ensure_ascii=False)}, {picked}")
        current = current if chosen is None else slate[chosen]
    request = REQUEST.format(
        prompt=json.dumps(prompt, ensure_ascii=False),
        history="\n".join(lines) or "nothing yet",
        current=json.dumps(current, ensure_ascii=False),
        each=EACH,
        longest=LONGEST,
    )
    answer = ask(request)
    try:
        return parse(answer)
    except BadExpansions as error:
        first = error
    repaired = ask(REPAIR.format(request=request, fault=first, answer=answer[:200]))
    try:
        return parse(repaired)
    except BadExpansions as error:
        raise BadExpansions(
            f"The language model gave no expansions, nor after being told what was wrong. First: "
            f"{first} Then: {error} Try a larger instruction-tuned model, or the grammar "
            "(pasta_lib.candidates)."
        ) from error


def parse(answer: str) -> dict[str, list[str]]:
    """Expansions by category, in the order of `CATEGORIES`, from a model's answer.

    Strict: one JSON object, alone or in one ```-fence; exactly the five categories; exactly `EACH`
    texts under each, none empty, none twice, none over `LONGEST` characters. Raises
    `BadExpansions` that says what was found instead.
    """
    text = answer.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BadExpansions(f"it is no JSON ({error}).") from error
    if not isinstance(found, dict) or set(found) != set(CATEGORIES):
        kind = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise BadExpansions(f"expected an object with the keys {list(CATEGORIES)}, found {kind}.")
    seen = set()
    for category in CATEGORIES:
        texts = found[category]
        if not isinstance(texts, list) or len(texts) != EACH:
            number = f"{len(texts)} of them" if isinstance(texts, list) else type(texts).__name__
            raise BadExpansions(f'expected a list of {EACH} under "{category}", found {number}.')
        for text in texts:
            if not isinstance(text, str) or not text.strip() or not _is_short_text(text):
                raise BadExpansions(
                    f'expected texts of 1 to {LONGEST} characters under "{category}", found '
                    f"{str(text)[:60]!r}."
                )
            if text.strip().lower() in seen:
                raise BadExpansions(f"{text!r} comes twice.")
            seen.add(text.strip().lower())
    return {category: [text.strip() for text in found[category]] for category in CATEGORIES}


def _once(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object, none of whose keys comes twice."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"a key comes twice among {keys}")
    return dict(pairs)


def _is_short_text(text: str) -> bool:
    """Not too long, and with no half of a character that could not be written to a file."""
    return len(text) <= LONGEST and not any("\ud800" <= c <= "\udfff" for c in text)


def language_model(
    model: str, revision: str | None = None, *, max_new_tokens: int = 1500, device: str = "cpu"
) -> Ask:
    """A causal language model of the hub by id and revision, or of a folder; answers greedily.

    A chat template is used where the tokenizer has one. Only weights in safetensors are loaded.
    """
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    network = AutoModelForCausalLM.from_pretrained(model, revision=revision, use_safetensors=True)
    network = network.to(device).eval()

    @torch.inference_mode()
    def ask(request: str) -> str:
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": request}]
            request = tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True
            )
        once = not tokenizer.chat_template  # a template brings its own start token
        inputs = tokenizer(request, add_special_tokens=once, return_tensors="pt").to(device)
        out = network.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )  # fmt: skip
        return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return ask
