"""The page on which a person decides about suspects: ``tether labels review``."""
