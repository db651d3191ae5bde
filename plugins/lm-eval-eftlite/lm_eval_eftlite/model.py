"""The harness's model class: a family, or one GGUF file, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from eftlite import EFT, Knobs, Speculation
from eftlite.errors import InputError
from lm_eval_eftlite.generating import settings_of
from lm_eval_eftlite.scoring import Request, in_order, scores

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class EFTLM(TemplateLM):  # type: ignore[misc]  # the harness has no annotations to read
    """A family under fixed knobs; without models it is the one that comes with eftlite.

    Args:
        preset: a family by name (``eftlite presets list``).
        mode: "eft", or who answers alone: "base", "tuned" or "reference".
        alpha, beta, conservative_p: knobs; the family's by default.
        speculative: whether answers are drafted and verified; their text is the same.
        max_gen_toks: where an answer ends if its task does not say.
        batch_size, max_batch_size, device: the harness always says them ("cuda:0" even without one); texts are scored
            one after the other, and ``n_gpu_layers`` and ``devices`` say where a model is.
        eft: a loaded family to share, instead of ``family``, ``options`` and the like.
        family: a family file.
        **options: further arguments of ``EFT``: base, tuned, reference, adapter, n_ctx, n_gpu_layers, template …

    Raises:
        EFTError: models or values that cannot be used.
    """

    def __init__(
        self,
        family: str | None = None,
        preset: str | None = None,
        mode: str = "eft",
        alpha: float | None = None,
        beta: float = 1.0,
        conservative_p: float | None = None,
        speculative: bool = True,
        max_gen_toks: int = 256,
        batch_size: int | str | None = None,  # noqa: ARG002  # described above, as the next two
        max_batch_size: int | None = None,  # noqa: ARG002  # as above
        device: str | None = None,  # noqa: ARG002  # as above
        eft: EFT | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if eft is None:
            eft = EFT(family=_family(family, preset), **options)
        self.eft = eft
        self.knobs = _knobs(eft, mode, alpha, beta, conservative_p)
        self.mode = mode
        self.speculation = Speculation(enabled=speculative)
        self.max_gen_toks = max_gen_toks
        self._bos = eft.tokenize(b"", add_bos=True)[:1]  # empty where the model wants none

    # ---- what the harness asks of a model

    @property
    def max_length(self) -> int:
        """Tokens that one can stand after: the context has room for one more, the one that is scored."""
        return self.eft.n_ctx - 1

    @property
    def eot_token_id(self) -> int:
        """The end of a text, or the beginning where a model has no end."""
        end = self.eft.tokenize(self.eft.template.eos.encode(), add_bos=False, special=True)
        return end[0] if len(end) == 1 else self._bos[0] if self._bos else 0

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        return self._bos[0] if self._bos else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """A name for the harness's cache of requests, which hold text of this family's template."""
        return f"eftlite-{self.eft.family.name}".replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The text of the family's template; there is only one."""
        return str(self.eft.template.source) if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation, as all members are shown it."""
        return self.eft.template.render(chat_history, add_generation_prompt=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; one BOS at most, also where the text begins with it."""
        ids = self.eft.tokenize(string.encode(), add_bos=add_special_tokens is not False, special=True)
        return ids[1:] if self._bos and ids[:2] == self._bos * 2 else ids

    # ---- its three kinds of requests

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """Each continuation's log-likelihood, and whether it is the greedy one."""
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        wanted = [Request(context, continuation) for _, context, continuation in requests]
        made = scores(self.eft, self.knobs, wanted)
        for index, one in tqdm(made, total=len(wanted), desc=f"{self.mode}: log-likelihoods", disable=disable_tqdm):
            found[index] = (one.log_likelihood, one.is_greedy)
            texts = requests[index][0]
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, found[index])
        return found

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Each text's log-likelihood, read in windows that overlap by one token where it is longer than the context."""
        found = []
        for request in tqdm(requests, desc=f"{self.mode}: texts", disable=disable_tqdm):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = map(
                make_disjoint_window, get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            )
            parts = self._loglikelihood_tokens([(None, *window) for window in windows], disable_tqdm=True)
            found.append(sum(one for one, _ in parts))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found[-1])
        return found

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Each request's answer; prompts that begin alike are answered one after the other."""
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        answers = [""] * len(requests)
        for index in tqdm(in_order(prompts), desc=f"{self.mode}: answers", disable=disable_tqdm):
            answers[index] = self._answer(prompts[index], requests[index].args[1])
            self.cache_hook.add_partial("generate_until", requests[index].args, answers[index])
        return answers

    def _answer(self, prompt: list[int], arguments: Mapping[str, Any]) -> str:
        """One answer; a prompt that is too long loses its beginning, but keeps half of the context at least."""
        sampling, limits = settings_of(arguments, self.max_gen_toks)
        n_answer = limits.max_tokens or 0
        kept = prompt[-max(self.max_length - n_answer, self.max_length // 2) :]
        answer = self.eft.complete(
            kept, sampling=sampling, limits=limits, knobs=self.knobs, speculation=self.speculation
        )
        return answer.text()


def _family(family: str | None, preset: str | None) -> Any:
    """The family that is named; None for EFT to find by its other arguments."""
    if preset is None:
        return family
    if family is not None:
        raise InputError("preset: expected no family beside it", "A preset names all its models")
    from eftlite.presets import Catalogue

    return Catalogue().find(preset).pinned


def _knobs(eft: EFT, mode: str, alpha: float | None, beta: float, conservative_p: float | None) -> Knobs:
    """The knobs that the arguments describe."""
    if mode != "eft":
        if alpha is not None or beta != 1.0 or conservative_p is not None:
            raise InputError(f"mode {mode}: expected no knobs beside it", "Knobs need mode eft, the default")
        return eft.knobs_for(mode)
    knobs = Knobs(tuple(delta.alpha for delta in eft.family.deltas), beta, conservative_p)
    if alpha is None:
        return knobs
    if not knobs.alphas:
        raise InputError("alpha: expected a family with a delta, got a base alone")
    return knobs.with_alpha(0, alpha)
