"""Fixtures of the whole suite."""

import os
from pathlib import Path

import pytest
import torch

# A test that reached for the network would hang or depend on the day.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of golden and real data that is not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"golden data not found at {SHARED}")
    return SHARED
