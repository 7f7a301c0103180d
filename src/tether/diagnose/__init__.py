"""What went wrong in a run: measures of its model, verdicts with their numbers, one page."""

from tether.diagnose.diagnosis import Diagnosis, examine
from tether.diagnose.opening import kept_subject, model_subject, run_subject
from tether.diagnose.steps import Verdict
from tether.diagnose.subject import Subject

__all__ = [
    "Diagnosis",
    "Subject",
    "Verdict",
    "examine",
    "kept_subject",
    "model_subject",
    "run_subject",
]
