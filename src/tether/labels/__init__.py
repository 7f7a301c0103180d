"""Finding wrong labels in one's own data, and acting on them.

``tether.labels.find.find`` ranks suspects, :class:`SampleRecord` keeps in any loop what it reads.
"""

from typing import TYPE_CHECKING

from tether.lazy import lazy_names

if TYPE_CHECKING:
    from tether.labels.apply import apply_corrections as apply_corrections
    from tether.labels.record import Record as Record
    from tether.labels.record import SampleRecord as SampleRecord
    from tether.labels.record import read_record as read_record

__all__ = ["Record", "SampleRecord", "apply_corrections", "read_record"]

if not TYPE_CHECKING:  # the command line starts without torch
    _HOME = {
        "apply_corrections": "apply", "Record": "record", "SampleRecord": "record",
        "read_record": "record",
    }  # fmt: skip
    __getattr__ = lazy_names(__name__, {k: f"{__name__}.{v}" for k, v in _HOME.items()})
