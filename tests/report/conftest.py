import pytest

from tests.report.sample import sample_page


@pytest.fixture(scope="session")
def sample_html():
    return sample_page().html()
