"""Seeds from numbers and names: every draw follows from what it is for."""

from __future__ import annotations

_MASK = (1 << 64) - 1


def mix_seed(*parts: int | str) -> int:
    """A well mixed 64-bit seed from numbers and names, the same on every platform."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        for value in part.encode() if isinstance(part, str) else [part & _MASK]:
            state = (state ^ value) * 0xBF58476D1CE4E5B9 & _MASK
            state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
            state ^= state >> 31
    return state
