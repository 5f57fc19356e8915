"""Expansions by a language model: a small one in the real format, and answers of every bad kind."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pasta_lib.candidates import CATEGORIES
from pasta_lib.expander import BadExpansions, expand, language_model, parse

GOOD = {c: [f"{c} number {i} of a fox" for i in range(5)] for c in CATEGORIES}
ANSWER = json.dumps(GOOD)


def changed(**categories):
    return json.dumps(GOOD | categories)


def test_a_good_answer_is_taken_as_it_is():
    assert parse(ANSWER) == GOOD and list(parse(ANSWER)) == list(CATEGORIES)
    assert parse(f"```json\n{ANSWER}\n```") == GOOD
    quoted = [*GOOD["style"][:4], '"ein Fuchs" 🦊\n<b>']
    assert parse(changed(style=quoted))["style"] == quoted


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("Sure! Here are some ideas for your picture.", "no JSON"),
        (f"Here you are:\n{ANSWER}", "no JSON"),
        (ANSWER[: len(ANSWER) // 2], "no JSON"),
        ("", "no JSON"),
        ("[1, 2]", "found list"),
        (json.dumps({c: GOOD[c] for c in CATEGORIES[:3]}), "expected an object with the keys"),
        (json.dumps(GOOD | {"extra": []}), "extra"),
        (changed(style=["a", "b", "c"]), '"style", found 3 of them'),
        (changed(creative=[f"fox {i}" for i in range(300)]), "found 300 of them"),
        (changed(style="a fox"), "found str"),
        (changed(style=["a", "b", "c", "d", " "]), "1 to 300 characters"),
        (changed(style=["a", "b", "c", "d", 5]), "found '5'"),
        (changed(style=["a", "b", "c", "d", "x" * 301]), "1 to 300 characters"),
        (changed(style=["a", "b", "c", "d", "A "]), "comes twice"),
        (changed(style=["a", "b", "c", "d", "\ud800"]), "1 to 300 characters"),
        (ANSWER[:-1] + ', "style": []}', "a key comes twice"),
        ("[" * 200_000, "no JSON"),
        ("1" * 5000, "no JSON"),
        (changed(style=["a", "b", "c", "d", "Creative number 0 of a fox"]), "comes twice"),
    ],
)
def test_bad_answers_are_refused_and_named(answer, message):
    with pytest.raises(BadExpansions, match=message):
        parse(answer)


class Scripted:
    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []

    def __call__(self, request):
        self.requests.append(request)
        return self.answers.pop(0)


def test_one_repair_and_no_more():
    ask = Scripted("Sure!", ANSWER)
    assert expand(ask, "a fox") == GOOD
    assert "no JSON" in ask.requests[1] and "Sure!" in ask.requests[1]
    ask = Scripted("Sure!", changed(style=["a", "b", "c"]), ANSWER)
    with pytest.raises(BadExpansions, match=r"First: it is no JSON.*Then: expected a list of 5"):
        expand(ask, "a fox")
    assert len(ask.requests) == 2


def test_a_pick_that_is_no_text_is_refused():
    for chosen in (-1, 4):
        with pytest.raises(ValueError, match=f"Turn 1: {chosen} is no text of a slate of 4"):
            expand(Scripted(ANSWER), "a fox", [(["w", "x", "y", "z"], chosen)])


def test_the_request_tells_the_whole_history():
    ask = Scripted(ANSWER)
    turns = [(["w", "x", "y", "z"], 2), (["k", "l", 'say "m"', "n"], None)]
    expand(ask, "a quiet évening", turns)
    request = ask.requests[0]
    assert '"a quiet évening"' in request and 'say \\"m\\"' in request
    assert '1. shown ["w", "x", "y", "z"], "y"' in request and "none of them" in request
    assert 'stands now is:\n"y"' in request


def test_a_small_language_model_in_the_real_format(tmp_path):
    """Two layers that know the right answer by heart; and as they were drawn, who know nothing."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = dict.fromkeys(piece for piece, _ in words.pre_tokenize_str(ANSWER))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    everything = ["<end>", *sorted(set(pieces) | set(alphabet))]
    vocabulary = {piece: i for i, piece in enumerate(everything)}
    merged = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    merged.pre_tokenizer, merged.decoder = words, decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=merged, eos_token="<end>", unk_token="<end>"
    )
    torch.manual_seed(0)
    network = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(vocabulary), n_positions=1024, n_embd=64, n_layer=2, n_head=2,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ))  # fmt: skip
    tokenizer.save_pretrained(tmp_path)
    network.save_pretrained(tmp_path)
    with pytest.raises(BadExpansions, match="nor after being told"):
        expand(language_model(str(tmp_path), max_new_tokens=20), "a fox")
    request = Scripted(ANSWER)
    expand(request, "a fox")
    asked = tokenizer(request.requests[0])["input_ids"]
    whole = torch.tensor([asked + tokenizer(ANSWER)["input_ids"] + [0]])
    labels = whole.clone()
    labels[:, : len(asked)] = -100
    adam = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(400):
        loss = network(whole, labels=labels).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
        if loss.item() < 5e-3:
            break
    network.eval().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    assert expand(language_model(str(tmp_path), max_new_tokens=500), "a fox") == GOOD


@pytest.mark.parametrize(
    "template", [None, "{{ bos_token }}<user>{{ messages[0]['content'] }}<model>"]
)
def test_what_the_model_reads_begins_once(tmp_path, monkeypatch, template):
    """One start token: the tokenizer's own, or that of its chat template, whose marks are there."""
    marks = ["<s>", "</s>", "<user>", "<model>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = Tokenizer(models.BPE({t: i for i, t in enumerate([*marks, *alphabet])}, []))
    merged.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merged.decoder = decoders.ByteLevel()
    merged.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=merged, bos_token="<s>", eos_token="</s>",
        additional_special_tokens=marks[2:],
    )  # fmt: skip
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=8, n_layer=1, n_head=1,
        bos_token_id=0, eos_token_id=1,
    )).save_pretrained(tmp_path)  # fmt: skip
    read = []

    def generate(self, input_ids, **more):
        read.extend(input_ids[0].tolist())
        return input_ids

    monkeypatch.setattr(GPT2LMHeadModel, "generate", generate)
    assert language_model(str(tmp_path))("a fox") == ""
    text = "".join(tokenizer.convert_ids_to_tokens(read)).replace("Ġ", " ")
    assert text == ("<s><user>a fox<model>" if template else "<s>a fox")
