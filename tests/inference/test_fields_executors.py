"""Tasks of fields: the same values in one process and in several, also where one dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scorepriors import InputError
from scorepriors.inference.fields._executors import executor


def scaled(shared, task):
    return shared["factor"] * task


def environment(shared, task):
    del shared
    time.sleep(0.2)
    return os.getpid(), os.environ["NPROC"], os.environ["JAX_COMPILATION_CACHE_DIR"]


def fails(shared, task):
    del shared
    if task == 3:
        raise InputError("the fourth is damaged.")
    return task


def dies_once(shared, task):
    """The worker of one task dies at the first try."""
    mark = Path(shared) / "died"
    if task == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task**2


def always_dies(shared, task):
    os.kill(os.getpid(), signal.SIGKILL)


def begins(shared, task):
    (Path(shared) / f"{task}").touch()
    time.sleep(0.3)
    return task


@pytest.fixture(scope="module")
def two():
    with pytest.MonkeyPatch.context() as patch:
        # Each death takes the start of another worker.
        patch.setattr("scorepriors.inference.fields._dask._DEATHS", 1)
        with executor(workers=2) as run:
            yield run


def test_one_process_runs_tasks_in_order():
    with executor() as run:
        assert run.dashboard is None
        assert list(run.map(scaled, [1, 2], shared={"factor": 3})) == [(0, 3), (1, 6)]


def test_workers_give_the_same(two):
    tasks = np.arange(100)
    found = dict(two.map(scaled, tasks, shared={"factor": 3}))
    assert found == {number: 3 * number for number in range(100)}
    assert dict(two.map(scaled, tasks[:5], shared={"factor": 2}))[4] == 8
    assert list(two.map(scaled, [])) == []


def test_workers_share_cores_and_the_cache(two):
    import jax

    found = [value for _, value in two.map(environment, range(8))]
    pids, threads, caches = (set(each) for each in zip(*found, strict=True))
    assert len(pids) == 2
    assert os.getpid() not in pids
    cores = len(os.sched_getaffinity(0))
    assert threads == {str(max(cores // 2, 1))}
    assert caches == {jax.config.jax_compilation_cache_dir}


def test_exceptions_arrive_as_themselves(two):
    with pytest.raises(InputError, match="the fourth is damaged"):
        list(two.map(fails, range(50)))
    assert len(list(two.map(fails, range(3)))) == 3


def test_tasks_of_a_dead_worker_run_again(two, tmp_path):
    found = dict(two.map(dies_once, range(6), shared=str(tmp_path)))
    assert found == {number: number**2 for number in range(6)}
    assert (tmp_path / "died").exists()


def test_what_is_shared_may_go_through_a_folder(two, tmp_path):
    two.folder = tmp_path
    try:
        assert dict(two.map(scaled, [4], shared={"factor": 5})) == {0: 20}
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        two.close()
        two.folder = None
    assert not list(tmp_path.iterdir())


def test_tasks_that_have_not_begun_are_cancelled(two, tmp_path):
    """Whoever stops to listen, as at Ctrl-C, stops the tasks."""
    for number, _ in two.map(begins, range(40), shared=str(tmp_path)):
        if number >= 1:
            break
    time.sleep(0.5)
    begun = len(list(tmp_path.iterdir()))
    time.sleep(1.0)
    assert len(list(tmp_path.iterdir())) == begun < 10


def test_a_task_that_kills_its_workers_is_given_up(two):
    with pytest.raises(InputError, match="ended its worker"):
        list(two.map(always_dies, [0]))


SCRIPT = """
import signal
import time
from pathlib import Path
from scorepriors.inference.fields._executors import executor

def begins(shared, task):
    (Path(shared) / f"{task}").touch()
    time.sleep(0.3)

if __name__ == "__main__":
    # A job in the background of a shell, as these tests may be, is started deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with executor(workers=2) as run:
        for number, _ in run.map(begins, range(1000), shared="done"):
            print(number, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill_end_the_workers(how, tmp_path):
    script = tmp_path / "script.py"
    (tmp_path / "done").mkdir()
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline()
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does
        else:
            process.kill()
        out, error = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert error.strip().splitlines()[-1] == "KeyboardInterrupt"
        assert error.count("Traceback") == 1
    time.sleep(1.0)
    begun = len(list((tmp_path / "done").iterdir()))
    assert len(out.split()) <= begun < 100
    time.sleep(0.7)
    assert len(list((tmp_path / "done").iterdir())) == begun


def test_a_scheduler_of_others():
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        with executor(scheduler=cluster.scheduler_address) as run:
            assert dict(run.map(scaled, [4], shared={"factor": 5})) == {0: 20}
        assert cluster.scheduler_info["workers"]


def test_a_scheduler_without_workers_is_not_waited_for(monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr("scorepriors.inference.fields._dask._LOOK", 0.2)
    monkeypatch.setattr("scorepriors.inference.fields._dask._GONE", 0.5)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        executor(scheduler=cluster.scheduler_address) as run,
        pytest.raises(InputError, match="no worker for"),
    ):
        list(run.map(scaled, [4], shared={"factor": 5}))


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "two"])
def test_numbers_of_workers(workers):
    with pytest.raises(InputError, match="1 or more"), executor(workers=workers):
        pass


def test_mistakes_are_said_in_one_sentence(monkeypatch):
    with pytest.raises(InputError, match="not both"), executor(workers=2, scheduler="tcp://a:1"):
        pass
    with pytest.raises(InputError, match="no scheduler file"), executor(scheduler="none.json"):
        pass
    monkeypatch.setattr("scorepriors.inference.fields._dask._PATIENCE", 1)
    message = "no Dask scheduler answers at 'tcp://127"
    with pytest.raises(InputError, match=message), executor(scheduler="tcp://127.0.0.1:1"):
        pass


def test_a_scheduler_that_is_not_there_leaves_results_alone(tmp_path):
    from scorepriors.inference.fields._deblend_field import deblend_field
    from scorepriors.models import load_example

    obs, _ = load_example()
    kept = tmp_path / "run" / "run.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    with pytest.raises(InputError, match="no scheduler file"):
        deblend_field(obs, output=tmp_path, scheduler="none.json", force=True)
    assert kept.exists()


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "scorepriors.inference.fields._dask", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    message = r"pip install 'scorepriors\[cluster\]'"
    with pytest.raises(InputError, match=message), executor(workers=2):
        pass
