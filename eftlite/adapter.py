"""A LoRA adapter loaded onto a model: small factors beside its weights, which single contexts may switch on.

Knows one model and one adapter file; which contexts use it is member.py's. llama.cpp sizes a context's graphs by the
adapters that its model has, so all of them are loaded before the first context is made.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import llama_cpp

from eftlite.errors import EngineError, ModelFileError
from eftlite.gguf_adapter import AdapterHeader, check_adapter, check_fit
from eftlite.llama import Model, library


class Adapter:
    """A LoRA adapter on a model; llama.cpp frees it with the model, after the contexts that use it.

    Args:
        path: the adapter's GGUF file; it is checked before llama.cpp opens it.
        model: whose weights it changes.
        name: how messages call it, e.g. "tuned".
        header: of the file, where it was checked already.

    Raises:
        ModelFileError: the file is no LoRA adapter, or one for another model.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: Model,
        name: str = "adapter",
        header: AdapterHeader | None = None,
    ) -> None:
        self.path, self.model, self.name = Path(path), model, name
        self.header = header or check_adapter(self.path)
        check_fit(self.header, model.header)
        library.lines.clear()
        self._handle: Any = llama_cpp.llama_adapter_lora_init(model.handle, os.fsencode(self.path))
        if not self._handle:
            raise ModelFileError(
                f"{self.path.name}: llama.cpp cannot put this adapter on {model.path.name}: {library.last_error()}",
                "It may need a newer llama-cpp-python, or be made for another model",
            )

    def apply(self, context: Any) -> None:
        """Switch it on for a context of its model, for good; EngineError where llama.cpp refuses."""
        adapters = (type(self._handle) * 1)(self._handle)
        code = int(llama_cpp.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)))
        if code:
            what = f"llama_set_adapters_lora of {self.path.name} failed with code {code}"
            raise EngineError(f"{self.name}: {what}", code=code)
