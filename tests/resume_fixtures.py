"""Fixtures of the tests that run the trainer: `pytest_plugins = ["resume_fixtures"]`."""

from pathlib import Path

import pytest
from resume_runs import NUM_TRAIN, NUM_VAL, RECIPE, read_metrics
from trainer_host import TrainerHost

from vision.datasets.sample import write_sample_dataset


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data set of six training images, three steps an epoch, and two validation batches."""
    root = tmp_path_factory.mktemp("tiny_data")
    write_sample_dataset(root, num_train=NUM_TRAIN, num_val=NUM_VAL, image_size=(120, 160))
    return root


@pytest.fixture(scope="session")
def trainer(tmp_path_factory):
    """Runs train_ssd.py."""
    host = TrainerHost(tmp_path_factory.mktemp("trainer_output"))
    yield host
    host.close()


@pytest.fixture(scope="session")
def reference(tmp_path_factory, trainer, tiny_data) -> Path:
    """A run of the recipe that nothing happened to."""
    run = tmp_path_factory.mktemp("reference") / "run"
    finished = trainer.run("--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run)
    assert finished.returncode == 0, finished.stderr
    assert len(read_metrics(run)) == 2
    return run
