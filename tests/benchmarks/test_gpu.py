import json
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu.night import KERNELS, not_by_triton, table


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu.night", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: make gpu is the test")
def test_without_a_gpu_the_check_says_so_and_fails() -> None:
    done = run()
    assert done.returncode == 2
    assert "torch finds no GPU" in done.stderr


@pytest.mark.slow
def test_mlflow_knows_which_kernels_a_night_was_trained_by() -> None:
    done = run("--one", "--narrow", "--lookback=168", "--horizon=24", "--epochs=1", "--stride=401")
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout.splitlines()[-1])
    assert runs.keys() == KERNELS.keys()
    assert all(one["windows_per_second"] > 0 for one in runs.values())
    by_triton = torch.cuda.is_available()
    assert [one["kernel"].startswith("triton: ") for one in runs.values()] == [by_triton] * 2
    assert len(not_by_triton(runs)) == (0 if by_triton else 2)


@pytest.mark.slow
def test_a_night_passes_only_if_both_models_were_trained_by_triton() -> None:
    right = {model: {"kernel": "triton: cuda", "windows_per_second": 200.0} for model in KERNELS}
    plain = {model: {"kernel": "torch: KERNELS_TRITON=off", "windows_per_second": 50.0} for model in KERNELS}
    assert not_by_triton(right) == []
    (message,) = not_by_triton(right | {"informer": plain["informer"]})
    assert message.startswith("the MLflow run of informer says 'torch: ")
    (message,) = not_by_triton({"informer": right["informer"]})
    assert "s_mamba says 'nothing: it failed'" in message
    assert "200            50    4.00" in table(right, plain)
