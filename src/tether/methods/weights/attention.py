"""Where a transformer's attention blocks are, told by the classes and names of its modules."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from tether.engine.reference import canonical
from tether.errors import TetherError

#: ``Attention``, ``BertSelfAttention``, ``MultiheadAttention``, ``DistilBertSdpaAttention``, ...
_CLASS = re.compile(r"attention|^attn", re.IGNORECASE)
#: Modules that are called so where their class has another name.
_NAME = re.compile(r"attn|(?:self|cross)_?attention|self_attn|attention|mha", re.IGNORECASE)


def attention_blocks(model: nn.Module, who: str) -> tuple[str, ...]:
    """Names of the outermost attention modules.

    Pooling by attention in the head counts, too: what is the head's is told apart elsewhere.

    Raises:
        TetherError: there are none.

    Example:
        >>> attention_blocks(nn.TransformerEncoderLayer(8, 2), "l2_sp")
        ('self_attn',)
    """
    found: list[str] = []
    for raw, module in model.named_modules():
        name = canonical(raw)
        if not name or within(name, found) or not any(True for _ in module.parameters()):
            continue
        kind, own = type(module).__name__, name.rpartition(".")[2]
        norm = "norm" in kind.lower()
        if not norm and (_CLASS.search(kind) or _NAME.fullmatch(own)):
            found.append(name)
    if not found:
        raise TetherError(
            f'method {who!r}: include="attention", but no module of the model is called attention '
            'or attn: use include="weights"'
        )
    return tuple(found)


def within(name: str, blocks: Iterable[str]) -> bool:
    """Whether a module or a parameter lies in one of some modules."""
    return any(name.startswith(f"{block}.") for block in blocks)
