"""What the tests of pages share: a browser."""

import browser as chromium
import pytest


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    if chromium.CHROMIUM is None:
        pytest.skip("needs a Chromium browser")
    opened = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
