"""What a run knows and a method cannot see: preprocessing, the tokenizer, earlier stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tether.method import Method
from tether.models.spec import LoadedModel


def tell_facts(methods: Sequence[Method], loaded: LoadedModel, more: Mapping[str, Any]) -> None:
    """Give the methods that have a ``take_facts(facts)`` what a run knows.

    Facts are ``image`` (:class:`tether.models.spec.ImagePreprocess` or None); of texts
    ``mask_token`` (an index, or None) and ``special_tokens`` (a list of them); and ``previous``,
    the file with the weights of the stage before (None while a later stage is only checked; not
    there in the first).

    Args:
        methods: of a stage.
        loaded: its model.
        more: further facts.
    """
    facts: dict[str, Any] = {"image": loaded.image, **more}
    tokenizer: Any = getattr(loaded.encode_text, "tokenizer", None)
    if tokenizer is not None:
        facts["mask_token"] = tokenizer.mask_token_id
        facts["special_tokens"] = list(tokenizer.all_special_ids)
    for method in methods:
        for part in method.expand():
            take = getattr(part, "take_facts", None)
            if callable(take):
                take(facts)
