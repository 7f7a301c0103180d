"""What several tests of labels share."""

from __future__ import annotations

import pytest

from tests.models.tiny import bert_folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT without a head."""
    return str(bert_folder(tmp_path_factory.mktemp("bert") / "bert"))
