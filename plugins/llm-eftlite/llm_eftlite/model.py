"""A family as a model of ``llm``: conversations, streaming, schemas, usage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import llm
from llm.parts import TextPart

from eftlite.errors import EFTError
from eftlite.settings import Family
from llm_eftlite.loaded import KEEPER
from llm_eftlite.options import EFTOptions

if TYPE_CHECKING:
    from eftlite import Answer


class EFTModel(llm.Model):
    """One family. Its answers share one cache: another answer of the same family ends one that is not finished."""

    can_stream = True
    supports_schema = True
    Options = EFTOptions  # type: ignore[assignment]  # llm's plugins replace the class of the same name

    def __init__(self, name: str, family: Family) -> None:
        self.model_id = f"eftlite/{name}"
        self.family = family

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,  # noqa: ARG002  # llm joins the pieces where they are not wanted
        response: llm.Response,
        conversation: llm.Conversation | None,  # noqa: ARG002  # prompt.messages holds all of it
    ) -> Iterator[str]:
        """Answer, piece by piece.

        Raises:
            llm.ModelError: values that cannot be used, or models that cannot be loaded.
        """
        try:
            answer = self._ask(prompt)
            for event in answer:
                if event.text:
                    yield event.text
        except EFTError as error:
            raise llm.ModelError(str(error)) from error
        _report(answer, response)

    def _ask(self, prompt: llm.Prompt) -> Answer:
        """Begin an answer; every value is looked at before models are loaded."""
        options = cast("EFTOptions", prompt.options)
        settings: dict[str, Any] = {
            "knobs": options.knobs(self.family),
            "sampling": options.sampling(_grammar(prompt)),
            "limits": options.limits(),
            "speculation": options.speculation(),
        }
        eft = KEEPER.get(self.model_id, self.family, options.loading())
        return eft.chat(_turns(prompt.messages), **settings)


def _grammar(prompt: llm.Prompt) -> str | None:
    """The grammar of the prompt's schema."""
    if prompt.schema is None:
        return None
    from eftlite.arguments import format_grammar

    return format_grammar({"type": "json_object", "schema": prompt.schema})


def _turns(messages: Sequence[llm.Message]) -> list[dict[str, str]]:
    """Messages as chat templates take them; thoughts and other models' tool calls are left out."""
    texts = ((one.role, "".join(part.text for part in one.parts if isinstance(part, TextPart))) for one in messages)
    return [{"role": role, "content": text} for role, text in texts if text]


def _report(answer: Answer, response: llm.Response) -> None:
    """Tell ``llm`` what the answer took; its log keeps all of it."""
    statistics = answer.statistics
    drafts = statistics.drafts
    details = {
        "cached": statistics.n_reused,
        "drafted": drafts.n_drafted if drafts else 0,
        "accepted": drafts.n_accepted if drafts else 0,
    }
    response.set_usage(
        input=statistics.n_prompt,
        output=statistics.n_tokens - statistics.n_end_tokens,
        details={name: count for name, count in details.items() if count},
    )
    response.response_json = {
        "finish_reason": statistics.finish_reason,
        "seed": answer.seed,
        "shift": statistics.shift,
        "speculation": statistics.speculation,
        "tokens_per_s": round(statistics.tokens_per_s, 2),
    }
