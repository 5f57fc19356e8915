"""What several tests need: chance that is the same in every run, and the demo's models."""

from dataclasses import replace

import pytest
import torch

from pasta_lib.demo import open_studio
from pasta_lib.generator import GeneratorConfig


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Networks that a test leaves to torch's own generator are the same whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def studio():
    """Real models, drawing as the bank was drawn."""
    return open_studio(GeneratorConfig())


@pytest.fixture(scope="session")
def hasty(studio):
    """The same with a single step: real pictures, bad ones."""
    return replace(studio, drawing=GeneratorConfig(steps=1, guidance=1.0))
