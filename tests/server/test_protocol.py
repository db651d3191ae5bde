from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_args

from eftlite.eft import EFT
from eftlite.server import protocol
from eftlite.server.protocol import FromWorker, LoadRequest, ToWorker


def test_what_to_load_are_arguments_of_eft_with_its_defaults() -> None:
    arguments = inspect.signature(EFT.__init__).parameters
    for field in fields(LoadRequest):
        assert field.name in arguments
        if field.name != "n_slots":  # a server answers several at once
            assert field.default == arguments[field.name].default


def test_every_message_goes_one_way() -> None:
    """A class that is in neither union, or in both, could not be told apart by those who read it."""
    messages = {cls for cls in vars(protocol).values() if isinstance(cls, type) and cls.__module__ == protocol.__name__}
    ways = [set(get_args(ToWorker)), set(get_args(FromWorker)), {LoadRequest, protocol.Scoring}]
    assert set.union(*ways) == messages
    assert sum(map(len, ways)) == len(messages)
