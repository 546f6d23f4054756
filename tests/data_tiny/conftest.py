"""The smallest generated world, built once for all tests of this folder."""

from pathlib import Path

import pytest

from moka.data.tiny import MICRO, build_world
from moka.data.tiny.build import BUILDERS


@pytest.fixture(scope="session")
def micro_world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build_world(MICRO, tmp_path_factory.mktemp("world"), list(BUILDERS))
