"""EFT: the public object. Loads a family once and answers prompts and conversations with any knobs.

``create_completion``, ``create_chat_completion``, ``__call__`` (compat.py), ``tokenize``, ``detokenize`` and ``close``
have the signatures and result shapes of ``llama_cpp.Llama``, so that code written for one runs with the other.

Answers in different slots may be in the making at once: each event is decoded under one lock, so they take turns.
Starting a second answer in the same slot ends the first one's right to go on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from eftlite.answer import Answer, Turns
from eftlite.arguments import family_of, settings_of, token_ids
from eftlite.compat import LlamaMethods, Messages
from eftlite.composite import Recipe
from eftlite.errors import ContextError, InputError
from eftlite.events import TokenEvent
from eftlite.family import bundled_family
from eftlite.generate import Decoder
from eftlite.llama import log_to_stderr
from eftlite.loading import Progress, load
from eftlite.noise import Noise, fresh_seed
from eftlite.planning import Planner
from eftlite.sampling import Sampler
from eftlite.scoring import score
from eftlite.settings import Family, Knobs, Limits, ModelSettings, Sampling, Speculation
from eftlite.template import BUILTIN, TRANSCRIPT_STOP, Template, has_bos, transcript
from eftlite.text import visible_text

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on; a dependency of llama-cpp-python

PROMPT_STYLES = ("template", "transcript")


class EFT(LlamaMethods):
    """A family of models on the same text.

    Args:
        base, tuned, reference: paths of GGUF files; base alone is an ordinary model. None of them means ``family``.
        adapter: path of a LoRA adapter that makes the reference the tuned model; without a reference it is on the base.
        family: a family file's path or a ``Family``; the bundled one by default.
        n_ctx: tokens of context; None takes what the models were trained for, 4096 at most.
        n_slots: conversations whose caches are kept.
        alpha, beta, conservative_p: knobs, see ``Knobs``; alpha is the first delta's.
        speculative: whether the tuned model drafts; a ``Speculation`` says how.
        drafter: path of one more model of the same vocabulary, which only drafts.
        settings: ``ModelSettings`` for all members, or a mapping by role ("base", "tuned", "reference").
        template: a built-in template's name or a template's text, in place of the tuned model's.
        prompt_style: "template" gives every member the tuned model's template; "transcript" gives the pre-trained
            ones a plain transcript.
        seed: makes every later answer repeatable.
        progress: called with a member's name and 0..1 while loading.
        verbose: print llama.cpp's log on stderr (accepted as ``llama_cpp.Llama`` does; use logging otherwise).
        model_path: ``llama_cpp.Llama``'s name for ``base``.
        **model_settings: fields of ``ModelSettings`` for all members, e.g. ``n_gpu_layers=-1``.

    Raises:
        InputError and its subclasses: files, vocabularies or values that cannot be used.
        EngineError: llama.cpp could not load them.
    """

    def __init__(
        self,
        base: str | None = None,
        tuned: str | None = None,
        reference: str | None = None,
        *,
        adapter: str | None = None,
        family: Family | str | Path | None = None,
        n_ctx: int | None = None,
        n_slots: int = 1,
        alpha: float | None = None,
        beta: float = 1.0,
        conservative_p: float | None = None,
        speculative: bool | Speculation = True,
        drafter: str | None = None,
        settings: ModelSettings | Mapping[str, ModelSettings] | None = None,
        template: str | None = None,
        prompt_style: str = "template",
        seed: int | None = None,
        progress: Progress | None = None,
        verbose: bool = False,
        model_path: str | None = None,
        **model_settings: Any,
    ) -> None:
        self.family = family_of(model_path if base is None else base, tuned, reference, family, adapter)
        if prompt_style not in PROMPT_STYLES:
            raise InputError(f"prompt_style: expected one of {', '.join(PROMPT_STYLES)}, got {prompt_style!r}")
        alphas = [delta.alpha for delta in self.family.deltas]
        if alpha is not None:
            alphas[:1] = [alpha]
        self.knobs = Knobs(tuple(alphas), beta, conservative_p)
        self.speculation = speculative if isinstance(speculative, Speculation) else Speculation(enabled=speculative)
        if verbose:
            log_to_stderr()
        self._seeds = None if seed is None else random.Random(seed)  # noqa: S311  # repeatable, not secret
        self._prompt_style = prompt_style
        self._engine = load(self.family, n_ctx, n_slots, settings_of(settings, model_settings), progress, drafter)
        self._turns = Turns(self._engine.cancel)
        if self._engine.drafter is not None and self.speculation.drafter == "auto":
            self.speculation = replace(self.speculation, drafter=self._engine.drafter)
        report = None if progress is None else lambda name: progress(f"timing {name}", 0.0)
        try:
            self._planner = Planner(self._engine, self.speculation, report)
        except BaseException:  # measuring takes seconds, in which Ctrl+C may come
            self._engine.close()
            raise
        self._speaker = self._engine.speaker
        self._template_source = template or self.family.template
        self._template: Template | None = None

    @classmethod
    def from_family(cls, path: str | Path, **options: Any) -> EFT:
        """The family that a TOML file describes."""
        return cls(family=path, **options)

    # ---- what it is

    @property
    def n_ctx(self) -> int:
        """Tokens of context."""
        return self._engine.ensemble.n_ctx

    @property
    def n_vocab(self) -> int:
        """Length of the members' common range of token ids."""
        return self._engine.shared.n_vocab

    @property
    def n_slots(self) -> int:
        """Texts whose caches are kept."""
        return len(self._engine.ensemble.texts)

    def n_cached(self, prompts: Sequence[Sequence[int]], slot: int) -> int:
        """Tokens of the base's prompt that a slot's cache already holds."""
        return self._engine.ensemble.n_cached(slot, prompts)

    @property
    def members(self) -> tuple[str, ...]:
        """The members' names, the base first."""
        return tuple(member.name for member in self._engine.ensemble.members)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was made smaller for want of memory, and harmless differences between the members' vocabularies."""
        return (*self._engine.placement.notes, *self._engine.shared.notes)

    def knobs_for(self, mode: str) -> Knobs:
        """Knobs under which one member answers alone: "base", "tuned" or "reference"; "eft" gives the current ones."""
        return self.knobs if mode == "eft" else Knobs.alone(mode, len(self.family.deltas))

    # ---- answers, event by event

    def chat(
        self,
        messages: Messages,
        *,
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        knobs: Knobs | None = None,
        speculation: Speculation | None = None,
        slot: int = 0,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Answer:
        """Answer a conversation.

        Args:
            messages: ``{"role", "content"}`` each, ending with the user's turn.
            sampling: how tokens are drawn.
            limits: where the answer ends; the family's stop strings are added.
            speculation: how drafts are made and verified; None takes the object's.
            knobs: for this answer; None follows ``self.knobs``, even while the answer is being made.
            slot: whose cached prefix is reused.
            tools: passed to the template.
        """
        return self._answer(self.chat_prompts(messages, tools), sampling, limits, knobs, speculation, slot)

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        knobs: Knobs | None = None,
        speculation: Speculation | None = None,
        slot: int = 0,
    ) -> Answer:
        """Continue a text or token ids; see ``chat``."""
        ids = self._text_ids(prompt) if isinstance(prompt, str) else token_ids(prompt, self.n_vocab)
        ids = ids or [max(self._speaker.bos, 0)]
        prompts = [ids] * len(self._engine.ensemble.members)
        return self._answer(prompts, sampling, limits, knobs, speculation, slot)

    def score(
        self,
        prompt: str | Sequence[int],
        *,
        knobs: Knobs | None = None,
        first: int = 0,
        n_top: int = 0,
        slot: int = 0,
    ) -> Iterator[TokenEvent]:
        """Log-probabilities of a given text's tokens under the composite, each after those before it.

        Args:
            first: the first token that is scored; the caches keep what they hold of the text before it.
            n_top: likeliest candidates of the composite for each token.

        Yields:
            An event for each token; the very first one of a text has ``logprob`` NaN.
        """
        self._check_slot(slot)
        ids = self._text_ids(prompt) if isinstance(prompt, str) else token_ids(prompt, self.n_vocab)
        if not 0 <= first < len(ids):
            raise InputError(f"first: expected a token of the text, 0 to {len(ids) - 1}, got {first}")
        if len(ids) > self.n_ctx:
            raise ContextError(
                f"prompt: expected at most {self.n_ctx} tokens, the context, got {len(ids)}",
                "Shorten it or use a larger n_ctx",
                n_prompt=len(ids),
                n_ctx=self.n_ctx,
            )
        recipe = Recipe.of(knobs or self.knobs, self._engine.ensemble.roles)
        engine = self._engine
        batches = score(engine.ensemble, engine.composite, slot, recipe, ids, self._speaker.piece, first, n_top)
        while True:
            with self._turns.lock:
                events = next(batches, None)
            if events is None:
                return
            yield from events

    def stop(self) -> None:
        """End the answers that are being made, from any thread; what was decoded stays."""
        self._turns.stop_all()

    def _answer(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | None,
        limits: Limits | None,
        knobs: Knobs | None,
        speculation: Speculation | None,
        slot: int,
    ) -> Answer:
        sampling, limits = sampling or Sampling(), limits or Limits()
        seed = sampling.seed if sampling.seed is not None else self._next_seed()
        engine = self._engine
        self._check_slot(slot)
        with self._turns.lock:
            reused = engine.ensemble.begin(slot, prompts)
        answer = Answer(self._turns, knobs, seed)
        decoder = Decoder(
            engine.ensemble,
            engine.composite,
            slot,
            lambda: answer.knobs or self.knobs,
            Sampler(sampling, self._speaker, engine.shared.n_vocab, seed),
            Noise(seed),
            replace(limits, stop=(*limits.stop, *self._stops())),
            engine.shared.eog,
            self._speaker.piece,
        )
        decoder.statistics.n_reused = reused
        answer.begin(decoder, self._planner.rounds(decoder, speculation or self.speculation))
        return answer

    def _check_slot(self, slot: int) -> None:
        n_slots = len(self._engine.ensemble.texts)
        if not 0 <= slot < n_slots:
            raise InputError(f"slot: expected 0 to {n_slots - 1}, got {slot}")

    def _next_seed(self) -> int:
        return self._seeds.getrandbits(32) if self._seeds else fresh_seed()

    def _stops(self) -> tuple[str, ...]:
        return (*self.family.stop, *(TRANSCRIPT_STOP if self._prompt_style == "transcript" else ()))

    # ---- prompts

    @property
    def template(self) -> Template:
        """The chat template all members get: the given one, the tuned model's, or ChatML."""
        if self._template is None:
            source = BUILTIN.get(self._template_source or "", self._template_source)
            source = source or self._speaker.chat_template or BUILTIN["chatml"]
            bos, eos = (self._special_text(token) for token in (self._speaker.bos, self._speaker.eos))
            ours = self._template_source is None and self.family == bundled_family()
            self._template = Template(source, bos=bos, eos=eos, trusted=ours)
        return self._template

    def chat_prompts(self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None) -> list[list[int]]:
        """Token ids of a conversation for each member."""
        ids = self._text_ids(self.template.render(messages, tools=tools), special=True)
        prompts = [ids] * len(self._engine.ensemble.members)
        if self._prompt_style == "transcript":
            plain_ids = self._text_ids(transcript(messages))
            roles = self._engine.ensemble.roles
            for index in {roles.base, *(reference for _, reference in roles.deltas)}:
                prompts[index] = plain_ids
        return prompts

    def _text_ids(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a prompt, with exactly one BOS where the model wants one."""
        add_bos = not has_bos(text, self._special_text(self._speaker.bos))
        return self._speaker.tokenize(visible_text(text), add_bos=add_bos, special=special)

    def _special_text(self, token: int) -> str:
        return self._speaker.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids of UTF-8 bytes."""
        return self._speaker.tokenize(text, add_bos, special)

    def detokenize(
        self,
        tokens: Sequence[int],
        prev_tokens: Sequence[int] | None = None,  # noqa: ARG002  # llama_cpp.Llama's; bytes need no context
        special: bool = False,
    ) -> bytes:
        """Bytes of token ids."""
        return self._speaker.detokenize(tokens, special)

    # ---- its life

    def validate(self) -> None:
        """Check that every cache holds what it should; EngineError when not."""
        with self._turns.lock:
            for slot in range(len(self._engine.ensemble.texts)):
                self._engine.ensemble.validate(slot)

    def close(self) -> None:
        """Free contexts and weights. Answers that were not finished cannot go on."""
        with self._turns.lock:
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
