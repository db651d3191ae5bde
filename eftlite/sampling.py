"""Sampling settings -> the law: what a token is finally drawn from, llama.cpp's sampler chain over the composite.

The order and meaning are llama-cpp-python's: logit bias, penalties, DRY, grammar, top-k, typical, top-p, min-p,
temperature. The chain filters; the drawing is ours (noise.py), except under mirostat, which draws by itself.

Knows scores and ids; never models' caches or text.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from eftlite import kernels
from eftlite.composite import Row
from eftlite.errors import EngineError, InputError
from eftlite.llama import Model
from eftlite.settings import Sampling
from eftlite.verify import Law

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_DRY_BREAKERS = (b"\n", b":", b'"', b"*")  # llama.cpp's defaults
_MIROSTAT_M = 100  # as in llama-cpp-python
_CERTAIN = np.zeros(1, np.float64)

# llama.cpp reads grammars by recursion: what nests deeper than its stack ends the process.
MAX_GRAMMAR, MAX_RULES, MAX_NESTING = 1 << 20, 1000, 100
_GRAMMAR_TEXT = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#.*')


class Sampler:
    """A sampler chain with what it remembers of the text: penalties' last tokens, the grammar's state.

    Args:
        sampling: the settings.
        model: whose vocabulary the grammar and DRY read.
        n_vocab: length of the composite.
        seed: for mirostat only.

    Raises:
        InputError: the grammar does not parse, or is too large.
    """

    def __init__(self, sampling: Sampling, model: Model, n_vocab: int, seed: int = 0) -> None:
        self.sampling = sampling
        self._model, self._n_vocab, self._seed = model, n_vocab, seed
        self._candidates = np.empty(n_vocab, _CANDIDATE)  # (n_vocab,)
        self._words = self._candidates.view(np.int32).reshape(n_vocab, 3)  # (n_vocab, 3) the same memory
        self._array: Any = llama_cpp.llama_token_data_array()
        self._chain: Any = None
        self._chain = self._build()
        self._n_steps = llama_cpp.llama_sampler_chain_n(self._chain)

    # ---- the chain

    def _build(self) -> Any:
        """The chain, in llama-cpp-python's order; steps that would do nothing are left out."""
        s, n_vocab = self.sampling, self._n_vocab
        steps: list[Any] = []
        if s.grammar:  # first, since it is the only one that can fail
            grammar = self._grammar(s.grammar)
        if s.logit_bias:
            steps.append(self._logit_bias())
        if s.repeat_penalty != 1.0 or s.frequency_penalty or s.presence_penalty:
            steps.append(
                llama_cpp.llama_sampler_init_penalties(
                    n_vocab, self._last_n, s.repeat_penalty, s.frequency_penalty, s.presence_penalty
                )
            )
        if s.dry_multiplier:
            steps.append(self._dry())
        if s.grammar:
            steps.append(grammar)
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for step in (*steps, *self._filters()):
            llama_cpp.llama_sampler_chain_add(chain, step)
        self._n_filters = llama_cpp.llama_sampler_chain_n(chain) - len(steps)
        return chain

    def heat(self, temperature: float) -> None:
        """Change the temperature from the next law on; what the chain remembers of the text stays.

        Raises:
            InputError: under mirostat, which has a temperature of its own making.
        """
        if temperature == self.sampling.temperature:
            return
        if self.sampling.mirostat:
            raise InputError("temperature: expected no change under mirostat, which sets its own")
        self.sampling = replace(self.sampling, temperature=temperature)
        for _ in range(self._n_filters):
            last = llama_cpp.llama_sampler_chain_n(self._chain) - 1
            llama_cpp.llama_sampler_free(llama_cpp.llama_sampler_chain_remove(self._chain, last))
        filters = self._filters()
        for step in filters:
            llama_cpp.llama_sampler_chain_add(self._chain, step)
        self._n_filters = len(filters)
        self._n_steps = llama_cpp.llama_sampler_chain_n(self._chain)

    @property
    def _last_n(self) -> int:
        """Tokens that penalties look back; llama.cpp's samplers would take -1 for none."""
        n = self.sampling.penalty_last_n
        return self._model.n_ctx_train if n < 0 else n

    def _grammar(self, text: str) -> Any:
        _check_grammar(text)
        grammar = llama_cpp.llama_sampler_init_grammar(self._model.vocab, text.encode(), b"root")
        if not grammar:
            raise InputError("grammar: expected GBNF with a rule named root, got one that llama.cpp cannot parse")
        return grammar

    def _filters(self) -> list[Any]:
        s = self.sampling
        if s.temperature == 0:
            return []
        # Modulo, since llama.cpp takes the largest 32-bit number for "any seed".
        if s.mirostat == 1:
            return [
                llama_cpp.llama_sampler_init_mirostat(
                    self._n_vocab, self._seed % 0xFFFFFFFF, s.mirostat_tau, s.mirostat_eta, _MIROSTAT_M
                )
            ]
        if s.mirostat == 2:
            return [llama_cpp.llama_sampler_init_mirostat_v2(self._seed % 0xFFFFFFFF, s.mirostat_tau, s.mirostat_eta)]
        filters = []
        if s.top_k > 0:
            filters.append(llama_cpp.llama_sampler_init_top_k(s.top_k))
        if s.typical_p < 1:
            filters.append(llama_cpp.llama_sampler_init_typical(s.typical_p, 1))
        if s.top_p < 1:
            filters.append(llama_cpp.llama_sampler_init_top_p(s.top_p, 1))
        if s.min_p > 0:
            filters.append(llama_cpp.llama_sampler_init_min_p(s.min_p, 1))
        if s.temperature != 1:
            filters.append(llama_cpp.llama_sampler_init_temp(s.temperature))
        return filters

    def _logit_bias(self) -> Any:
        biases = [(token, bias) for token, bias in self.sampling.logit_bias.items() if token < self._n_vocab]
        array = (llama_cpp.llama_logit_bias * len(biases))(*(llama_cpp.llama_logit_bias(*bias) for bias in biases))
        return llama_cpp.llama_sampler_init_logit_bias(self._n_vocab, len(biases), array)

    def _dry(self) -> Any:
        s = self.sampling
        breakers = (ctypes.c_char_p * len(_DRY_BREAKERS))(*_DRY_BREAKERS)
        return llama_cpp.llama_sampler_init_dry(
            self._model.vocab,
            s.dry_multiplier,
            s.dry_base,
            s.dry_allowed_length,
            self._last_n,
            breakers,
            len(_DRY_BREAKERS),
        )

    # ---- the law

    def law(self, scores: Row) -> Law:
        """The law of the next token from the composite's scores (n_vocab,) float32, normalised or not.

        Raises:
            EngineError: a score is NaN or +inf, or none is finite.
            InputError: grammar and biases leave no token.
        """
        if self.sampling.temperature == 0 and not self._n_steps:
            _check_finite(scores)
            return Law(np.array([int(scores.argmax())], np.int32), _CERTAIN)
        size = self._apply(scores)
        ids = self._candidates["id"][:size]
        logits = self._candidates["logit"][:size]
        if self.sampling.temperature == 0:
            best = logits == logits.max()
            return Law(ids[best].min(keepdims=True).astype(np.int32), _CERTAIN)
        alive = np.isfinite(logits)
        ids, logits = ids[alive].copy(), logits[alive].astype(np.float64)
        peak = logits.max()
        logprobs: NDArray[np.float64] = logits - peak - np.log(np.exp(logits - peak).sum())
        return Law(ids, logprobs)

    def select(self, scores: Row) -> int:
        """The token that mirostat draws; it keeps its own random state, so such text cannot be verified."""
        self._apply(scores)
        return int(self._candidates["id"][self._array.selected])

    def _apply(self, scores: Row) -> int:
        """Run the chain; returns how many candidates survive, at the front of ``_candidates``."""
        _check_finite(scores)  # llama.cpp sorts, and does not expect NaN
        candidates, array = self._candidates, self._array
        kernels.fill_candidates(scores, self._words)
        array.data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        array.size, array.selected, array.sorted = self._n_vocab, -1, False
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        size = int(array.size)
        address = ctypes.addressof(array.data.contents)
        if address != candidates.ctypes.data:  # a sampler may hand back a buffer of its own
            ctypes.memmove(candidates.ctypes.data, address, size * _CANDIDATE.itemsize)
        if size == 0 or not np.isfinite(candidates["logit"][:size].max()):
            raise InputError("grammar or logit_bias: no token is left to continue with")
        return size

    def accept(self, token: int) -> None:
        """Tell the chain which token came; it must be one of the law's."""
        if self._n_steps:
            llama_cpp.llama_sampler_accept(self._chain, token)

    # ---- its life

    @property
    def draws_itself(self) -> bool:
        """Whether ``select`` draws, not the law; temperature 0 is greedy also with mirostat, as in llama-cpp-python."""
        return bool(self.sampling.mirostat and self.sampling.temperature)

    @property
    def remembers(self) -> bool:
        """Whether the law of a position depends on the tokens before it beyond the composite."""
        s = self.sampling
        penalised = s.repeat_penalty != 1.0 or s.frequency_penalty or s.presence_penalty
        return bool(penalised or s.dry_multiplier or s.grammar or self.draws_itself)

    def clone(self) -> Sampler:
        """A copy with the same memory; shares the candidates' scratch, so use one at a time."""
        other = object.__new__(Sampler)
        other.__dict__.update(self.__dict__)
        other._array = llama_cpp.llama_token_data_array()
        other._chain = llama_cpp.llama_sampler_clone(self._chain)
        return other

    def close(self) -> None:
        """Free the chain."""
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None

    def __del__(self) -> None:
        self.close()


def _check_finite(scores: Row) -> None:
    peak = scores.max()  # NaN if any is
    if not np.isfinite(peak):
        raise EngineError(
            f"composite: expected finite logits, got {peak} as the largest",
            "A model file may be damaged, or a quantization too coarse",
        )


def _check_grammar(text: str) -> None:
    """Refuse what would overflow the stack of llama.cpp's parser."""
    if len(text) > MAX_GRAMMAR:
        raise InputError(f"grammar: expected at most {MAX_GRAMMAR} characters, got {len(text)}")
    bare = _GRAMMAR_TEXT.sub("", text)
    n_rules = bare.count("::=")
    if n_rules > MAX_RULES:
        raise InputError(f"grammar: expected at most {MAX_RULES} rules, got {n_rules}")
    depth = deepest = 0
    for sign in re.findall(r"[()]", bare):
        depth += 1 if sign == "(" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        raise InputError(f"grammar: expected at most {MAX_NESTING} nested parentheses, got {deepest}")
