"""What every registered method must keep to; see ``checks.run`` to try one method."""
