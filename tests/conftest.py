"""What several tests need and takes long to open: the demo's models."""

from dataclasses import replace

import pytest

from pasta_lib.demo import open_studio
from pasta_lib.generator import GeneratorConfig


@pytest.fixture(scope="session")
def studio():
    """Real models, drawing as the bank was drawn."""
    return open_studio(GeneratorConfig())


@pytest.fixture(scope="session")
def hasty(studio):
    """The same with a single step: real pictures, bad ones."""
    return replace(studio, drawing=GeneratorConfig(steps=1, guidance=1.0))
