"""From what a run did to constraints for the next one: ``tether encode``."""

from tether.encode.constraints import Constraints, encode
from tether.encode.profile import Profile, measured_profile

__all__ = ["Constraints", "Profile", "encode", "measured_profile"]
