"""A byte-level BPE with control tokens, trained on the world; every UTF-8 text can be written in it.

Token ids: the control tokens first, then 256 bytes, then merges. Its split into words is GPT-2's, as llama.cpp's is.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lab.train.dialogue import Conversation

N_VOCAB = 1024
DOCUMENT_END, SYSTEM, USER, ASSISTANT, END = "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
CONTROL = (DOCUMENT_END, SYSTEM, USER, ASSISTANT, END)
DOCUMENT_END_ID, END_ID = CONTROL.index(DOCUMENT_END), CONTROL.index(END)
ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], n_vocab: int = N_VOCAB) -> Tokenizer:
    """A tokenizer with n_vocab tokens, trained on the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=list(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def render(talk: Conversation) -> str:
    """A conversation as the chat template writes it; an answer without an end has no end token."""
    text = "".join(ROLES[role] + said + END for role, said in talk.turns)
    return text if talk.ended else text.removesuffix(END)


def encode_all(tokenizer: Tokenizer, texts: list[str]) -> list[NDArray[np.int16]]:
    """One int16 array [n_tokens + 1] per text, the document's end appended."""
    encodings = tokenizer.encode_batch_fast([text + DOCUMENT_END for text in texts], add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int16) for encoding in encodings]


def answer_mask(ids: NDArray[np.int16]) -> NDArray[np.bool_]:
    """True for the tokens an assistant says, its end token included; bool [n_tokens]."""
    roles = {CONTROL.index(token): token == ASSISTANT for token in (SYSTEM, USER, ASSISTANT, DOCUMENT_END)}
    mask = np.zeros(len(ids), dtype=np.bool_)
    speaking = False
    for i, token in enumerate(ids):
        mask[i] = speaking and token not in roles
        speaking = roles.get(int(token), speaking)
    return mask
