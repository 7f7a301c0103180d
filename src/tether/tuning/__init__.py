"""The job behind ``tether tune``: settings, run folder, stages, going on, scores, export."""
