"""Options that several verbs share, each group read into one frozen object.

``@member_options`` gives a command the argument ``members``, ``@generation_options`` the argument ``generation``.
Values are checked by the settings they become, so that the command line, Python and the server refuse the same ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import click

from eftlite.cli.output import LoadingLine
from eftlite.cli.verb import AnswerOption, ModelOption
from eftlite.errors import InputError
from eftlite.overrides import parse_overrides
from eftlite.rpc import parse_endpoints
from eftlite.settings import KV_TYPES, Family, Knobs, Limits, ModelSettings, Sampling, from_options

if TYPE_CHECKING:
    from eftlite.eft import EFT

Command = Callable[..., Any]
MODES = ("eft", "base", "tuned", "reference")
PROMPT_STYLES = ("template", "transcript")
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r"}


@dataclass(frozen=True)
class Members:
    """Which models, and how they are loaded."""

    family: str | None = None
    preset: str | None = None
    base: str | None = None
    tuned: str | None = None
    reference: str | None = None
    adapter: str | None = None
    n_ctx: int | None = None
    n_gpu_layers: int | None = None
    threads: int | None = None
    type_k: str | None = None
    type_v: str | None = None
    rpc: str | None = None
    overrides: tuple[str, ...] = ()

    def resolve(self) -> Family:
        """The family the options name; the bundled one if they name none. InputError when they contradict."""
        return self.changed(self._named())

    def changed(self, family: Family) -> Family:
        """The family with the settings of single members that ``--set`` names, and on the workers of ``--rpc``."""
        if self.overrides:
            family = replace(family, settings=parse_overrides(self.overrides, family.settings))
        return family if self.rpc is None else replace(family, rpc=parse_endpoints(self.rpc))

    def _named(self) -> Family:
        from eftlite.family import bundled_family, family_of_files, load_family

        options = {"base": self.base, "tuned": self.tuned, "reference": self.reference, "lora": self.adapter}
        named = [option for option, value in options.items() if value is not None]
        if self.preset is not None:
            return self._preset(["family"] * (self.family is not None) + named)
        if self.family is not None:
            if named:
                raise InputError(f"--family: expected no --{named[0]} beside it", "A family file names all its models")
            return load_family(self.family)
        if not named:
            return bundled_family()
        if self.tuned is not None and self.adapter is not None:
            raise InputError("--lora: expected no --tuned beside it", "Reference and adapter are the tuned model")
        if self.base is None or (self.adapter is None and (self.tuned is None) != (self.reference is None)):
            missing = next(option for option in ("base", "tuned", "reference") if option not in named)
            message = f"--{missing}: expected a GGUF file beside --{' and --'.join(named)}, got none"
            raise InputError(message, "EFT needs base, tuned and reference; a base alone is an ordinary model")
        return family_of_files(self.base, self.tuned, self.reference, self.adapter)

    def _preset(self, others: Sequence[str]) -> Family:
        from eftlite.presets import Catalogue

        if others:
            raise InputError(f"--preset: expected no --{others[0]} beside it", "A preset names all its models")
        return Catalogue().find(self.preset or "").pinned

    def settings(self, family: Family) -> ModelSettings:
        """How each model is loaded; the bundled ones are so small that several threads only wait for each other."""
        from eftlite.family import bundled_family

        plain = replace(family, rpc=(), settings={})
        options = {
            "n_gpu_layers": self.n_gpu_layers,
            "n_threads": 1 if self.threads is None and plain == bundled_family() else self.threads,
            "type_k": self.type_k,
            "type_v": self.type_v,
        }
        settings: ModelSettings = from_options(ModelSettings, options)
        return settings

    def load(self, family: Family, **options: Any) -> EFT:
        """Load ``family``; ``options`` are further arguments of ``EFT``."""
        settings = self.settings(family)
        if self.n_ctx is not None and self.n_ctx < 0:
            raise InputError(f"--n-ctx: expected a number of tokens, or 0 for all the models take, got {self.n_ctx}")
        from eftlite.eft import EFT

        line = LoadingLine()
        try:
            return EFT(family=family, n_ctx=self.n_ctx, settings=settings, progress=line, **options)
        finally:
            line.clear()


@dataclass(frozen=True)
class Generation:
    """How answers are made; None leaves a default as it stands."""

    alpha: float | None = None
    beta: float | None = None
    conservative_p: float | None = None
    delta: tuple[str, ...] = ()
    allow_negative_alpha: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    system: str | None = None
    speculative: bool = True
    mode: str = "eft"
    prompt_style: str = "template"

    def knobs(self, family: Family) -> Knobs:
        """The family's knobs with the options' changes."""
        alphas = {delta.name: delta.alpha for delta in family.deltas}
        changes = dict(_named_alpha(text) for text in self.delta)
        if self.alpha is not None:
            if not alphas:
                raise InputError("--alpha: expected a family with a delta, got a base alone")
            changes.setdefault(family.deltas[0].name, self.alpha)
        unknown = [name for name in changes if name not in alphas]
        if unknown:
            known = f"Known deltas: {', '.join(alphas)}" if alphas else "This family has none"
            raise InputError(f"--delta: no delta is called {unknown[0]!r}", known)
        if self.mode != "eft" and (changes or self.beta is not None or self.conservative_p is not None):
            raise InputError(f"--mode {self.mode}: expected no knobs beside it", "Knobs need --mode eft, the default")
        return Knobs(
            tuple({**alphas, **changes}.values()),
            1.0 if self.beta is None else self.beta,
            self.conservative_p,
            allow_negative=self.allow_negative_alpha,
        )

    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed")
        sampling: Sampling = from_options(Sampling, {name: getattr(self, name) for name in names})
        return sampling

    def limits(self) -> Limits:
        """Where answers end; in ``--stop`` the two characters backslash and n are a line break."""
        return Limits(max_tokens=self.max_tokens, stop=tuple(unescape(stop) for stop in self.stop))

    def check(self) -> None:
        """Raise InputError for a value that cannot be used, before models are loaded."""
        self.sampling()
        self.limits()

    def load(self, members: Members, **options: Any) -> EFT:
        """Check every value, then load the members and set their knobs; ``options`` as for ``Members.load``."""
        family = members.resolve()
        knobs = self.knobs(family)
        self.check()
        eft = members.load(family, speculative=self.speculative, prompt_style=self.prompt_style, **options)
        eft.knobs = knobs
        return eft


def knobs_of(eft: EFT, mode: str) -> Knobs | None:
    """Knobs to answer with in a mode; None, which is the object's own, for "eft"."""
    return None if mode == "eft" else eft.knobs_for(mode)


def unescape(text: str) -> str:
    r"""The text with the two characters ``\n`` as a line break, and ``\t`` and ``\r`` alike."""
    for written, meant in _ESCAPES.items():
        text = text.replace(written, meant)
    return text


def _named_alpha(text: str) -> tuple[str, float]:
    """NAME=ALPHA, taken apart."""
    name, equals, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        equals = ""
    if not equals:
        raise InputError(f"--delta: expected NAME=ALPHA, for example helpful=0.5, got {text!r}")
    return name.strip(), number


def _presets(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Names that begin so, for completion in a shell."""
    from eftlite.presets import Catalogue

    return [name for name in Catalogue().names if name.startswith(incomplete)]


_model_option = functools.partial(click.option, cls=ModelOption)
_answer_option = functools.partial(click.option, cls=AnswerOption)

_NAMING_OPTIONS = (
    _model_option("--family", metavar="FILE", help="A family file (TOML) that names all models."),
    _model_option(
        "--preset", metavar="NAME[:TYPE]", shell_complete=_presets, help="A family by name (eftlite presets list)."
    ),
    _model_option("--base", metavar="MODEL", help="The large pre-trained model: a GGUF file, or org/repo:TYPE."),
    _model_option("--tuned", metavar="MODEL", help="The small fine-tuned model."),
    _model_option("--reference", metavar="MODEL", help="The small model before its fine-tuning."),
    # llama.cpp's word for it, which its users and their scripts have in their fingers.
    _model_option("--lora", "adapter", metavar="FILE", help="A LoRA adapter that makes the reference the tuned model."),
    _model_option("--n-ctx", type=int, metavar="N", help="Tokens of context; 0: all the models were trained for."),
)

rpc_option = _model_option(
    "--rpc", metavar="HOST:PORT[,…]", help="Workers on other machines, for the base (eftlite worker)."
)

_LOADING_OPTIONS = (
    _model_option("--n-gpu-layers", "-ngl", type=int, metavar="N", help="Layers on the GPU; -1: all.  [default: fit]"),
    _model_option("--threads", "-t", type=int, metavar="N", help="Threads.  [default: the physical cores]"),
    _model_option("--type-k", type=click.Choice(KV_TYPES), metavar="TYPE", help="Type of the cache's keys."),
    _model_option("--type-v", type=click.Choice(KV_TYPES), metavar="TYPE", help="Type of the cache's values."),
    _model_option(
        "--set", "overrides", multiple=True, metavar="MEMBER.NAME=VALUE", help="A setting of one member; repeatable."
    ),
    rpc_option,
)

_KNOB_OPTIONS = (
    _answer_option("--alpha", type=float, help="Strength of the first delta.  [default: the family's]"),
    _answer_option("--beta", type=float, help="Above 1 amplifies what the base knows.  [default: 1]"),
    _answer_option("--conservative-p", type=float, help="Use the base only inside the tuned model's top-p set."),
    _answer_option("--delta", multiple=True, metavar="NAME=ALPHA", help="Strength of a delta by name; repeatable."),
    _answer_option("--allow-negative-alpha", is_flag=True, help="Allow alpha < 0, which reverses a tune."),
)

_METHOD_OPTIONS = (
    _answer_option("--speculative/--no-speculative", default=True, help="Draft and verify; the text is the same."),
    _answer_option(
        "--prompt-style",
        type=click.Choice(PROMPT_STYLES),
        default="template",
        help="What the pre-trained members are shown.  [default: template]",
    ),
)

_GENERATION_OPTIONS = (
    *_KNOB_OPTIONS,
    _answer_option("--temperature", type=float, help="0 takes the likeliest token.  [default: 0.8]"),
    _answer_option("--top-k", type=int, help="Keep the k likeliest tokens; 0: all.  [default: 40]"),
    _answer_option("--top-p", type=float, help="Keep the likeliest tokens up to this probability.  [default: 0.95]"),
    _answer_option("--min-p", type=float, help="Drop tokens below this share of the likeliest.  [default: 0.05]"),
    _answer_option("--repeat-penalty", type=float, help="Above 1 discourages repetition.  [default: 1]"),
    _answer_option("--seed", type=int, help="The same seed gives the same answer."),
    _answer_option("--max-tokens", "-n", type=int, metavar="N", help="End an answer after N tokens."),
    _answer_option(
        "--stop", multiple=True, metavar="TEXT", help=r"End an answer at TEXT (\n: line break); repeatable."
    ),
    _answer_option("--system", metavar="TEXT", help="The system message."),
    _answer_option("--mode", type=click.Choice(MODES), default="eft", help="Who answers.  [default: eft]"),
    *_METHOD_OPTIONS,
)


def member_options(command: Command) -> Command:
    """Give a command the options that name and load models, as ``members``."""
    return bundle(Members, "members", (*_NAMING_OPTIONS, *_LOADING_OPTIONS), command)


def naming_options(command: Command) -> Command:
    """Give a command the options that only name models, as ``members``."""
    return bundle(Members, "members", _NAMING_OPTIONS, command)


def generation_options(command: Command) -> Command:
    """Give a command the options of answers, as ``generation``."""
    return bundle(Generation, "generation", _GENERATION_OPTIONS, command)


def knob_options(command: Command) -> Command:
    """Give a command only those that hold for every answer, as ``generation``."""
    return bundle(Generation, "generation", (*_KNOB_OPTIONS, *_METHOD_OPTIONS), command)


def bundle(kind: type[Any], name: str, options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    """Add options to a command and hand it their values as one object."""

    @functools.wraps(command)
    def bundled(**values: Any) -> Any:
        found = kind(**{field.name: values.pop(field.name) for field in fields(kind) if field.name in values})
        return command(**values, **{name: found})

    result: Command = bundled
    for option in reversed(options):
        result = option(result)
    return result
