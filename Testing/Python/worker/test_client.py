"""The client against a real worker process whose jobs are scripted (scripted_worker/sitecustomize.py)."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import OBLIQUE

from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.volume import Volume
from UniversalAnatomicalEmbeddingLib.system.errors import InputError
from UniversalAnatomicalEmbeddingLib.worker import client as worker_client
from UniversalAnatomicalEmbeddingLib.worker.client import Cancelled, Done, Event, Failed, Progress, WorkerClient, default_python
from UniversalAnatomicalEmbeddingLib.worker.messages import FOLDER_PREFIX

SCRIPTED = Path(__file__).parents[1] / "scripted_worker"
PACKAGE = Path(worker_client.__file__).parents[2]


def scripted_environment(temporary: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SCRIPTED), "TMPDIR": str(temporary), **more}


class Observed:
    """A client and everything it reported."""

    def __init__(self, client: WorkerClient) -> None:
        self.client = client
        self.events: list[Event] = []

    def wait(self, wanted: Callable[[Event], bool], seconds: float = 120.0) -> Any:
        """Poll until an event is the wanted one."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            new = self.client.poll()
            self.events += new
            for event in new:
                if wanted(event):
                    return event
            time.sleep(0.005)
        raise AssertionError(f"not within {seconds} s; there was {self.events}")

    def end(self, job: int, seconds: float = 120.0) -> Any:
        known = [e for e in self.events if e.job == job and not isinstance(e, Progress)]
        return known[0] if known else self.wait(lambda e: e.job == job and not isinstance(e, Progress), seconds)

    def begin(self, job: int, text: str) -> None:
        self.wait(lambda e: isinstance(e, Progress) and e.job == job and e.text == text)

    def pid(self) -> int:
        return self.end(self.client.submit({"job": "echo"})).result["pid"]


@pytest.fixture
def observed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Observed]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = Observed(WorkerClient(env=scripted_environment(tmp_path)))
    yield made
    made.client.close()
    assert eventually(lambda: folders(tmp_path) == [])


def folders(parent: Path) -> list[Path]:
    return list(parent.glob(f"{FOLDER_PREFIX}*"))


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.02)
    return condition()


def is_alive(pid: int) -> bool:
    """Whether a process runs (one that has ended but was not waited for does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def make_volume(shape: tuple[int, int, int] = (3, 4, 5)) -> Volume:
    return Volume(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), Grid(shape, OBLIQUE), "ct", "chest")


def test_jobs_are_done_in_order_by_one_process_that_starts_with_the_first(observed: Observed, tmp_path: Path) -> None:
    time.sleep(0.1)
    assert folders(tmp_path) == []
    first, second = (observed.client.submit({"job": "echo", "word": word}) for word in "ab")
    assert (observed.end(first).result["word"], observed.end(second).result["word"]) == ("a", "b")
    assert [e.job for e in observed.events] == [first] * 3 + [second] * 3
    assert observed.events[0] == Progress(first, 0.0, "starting", None)
    assert observed.end(first).result["pid"] == observed.end(second).result["pid"] == observed.pid()
    assert observed.client.poll() == []


def test_voxels_arrive_exactly_and_their_file_goes_with_the_job(observed: Observed) -> None:
    volume = make_volume()
    turned = dataclasses.replace(volume, array=np.asfortranarray(volume.array))
    result = observed.end(observed.client.submit({"job": "describe", "volume": turned})).result
    assert result["moment"] == float((np.arange(60.0) ** 2).sum())
    assert (result["shape"], result["dtype"], result["modality"], result["name"]) == ([3, 4, 5], "<i2", "ct", "chest")
    assert np.array_equal(result["affine"], OBLIQUE)
    assert eventually(lambda: not Path(result["file"]).exists())


def test_a_folder_that_was_swept_meanwhile_is_made_again(observed: Observed, tmp_path: Path) -> None:
    before = observed.pid()
    shutil.rmtree(folders(tmp_path)[0])
    assert observed.end(observed.client.submit({"job": "describe", "volume": make_volume()})).result["shape"] == [3, 4, 5]
    assert observed.pid() == before


def test_no_call_ever_waits(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for slow disks, nor for a worker that does not listen."""
    real = worker_client.stage

    def slow(*arguments: Any) -> dict[str, Any]:
        time.sleep(1.0)
        return real(*arguments)

    observed.pid()
    monkeypatch.setattr(worker_client, "stage", slow)
    spent = []

    def timed(call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = call()
        spent.append(time.perf_counter() - start)
        return value

    client = observed.client
    first = timed(lambda: client.submit({"job": "describe", "volume": make_volume((64, 256, 256))}))
    timed(client.poll)
    second = timed(lambda: client.submit({"job": "block"}))
    assert isinstance(observed.end(first), Done)
    observed.begin(second, "blocking")
    for call in (client.poll, lambda: client.cancel(second), client.log, client.restart, client.close):
        timed(call)
    assert max(spent) < 0.3  # a thread may be kept waiting for a processor, but not for the disk
    assert isinstance(observed.end(second), Cancelled)


def cancel_seconds(observed: Observed, job: int) -> float:
    start = time.monotonic()
    observed.client.cancel(job)
    observed.client.cancel(job)
    assert observed.end(job) == Cancelled(job)
    return time.monotonic() - start


def best_of_three(measure: Callable[[], float]) -> float:
    """A busy machine can only make a time longer."""
    return min(measure() for _ in range(3))


def test_cancel_of_a_job_that_listens_keeps_the_process(observed: Observed) -> None:
    before = observed.pid()

    def measure() -> float:
        job = observed.client.submit({"job": "obey"})
        observed.begin(job, "obeying")
        return cancel_seconds(observed, job)

    assert best_of_three(measure) < 0.2
    assert observed.pid() == before


@pytest.mark.parametrize("operation", ["block", pytest.param("seize", marks=pytest.mark.skipif(os.name != "posix", reason="needs libc"))])
def test_cancel_in_the_middle_of_one_long_operation_kills_the_process(observed: Observed, operation: str) -> None:
    pids = [observed.pid()]

    def measure() -> float:
        job = observed.client.submit({"job": operation})
        observed.begin(job, "blocking")
        seconds = cancel_seconds(observed, job)
        assert eventually(lambda: not is_alive(pids[-1]))
        pids.append(observed.pid())
        assert [e for e in observed.events if e == Cancelled(job)] == [Cancelled(job)]
        return seconds

    assert best_of_three(measure) < 0.5
    assert len(set(pids)) == len(pids)


def test_cancel_before_a_job_began_is_immediate_and_keeps_the_process(observed: Observed) -> None:
    running, queued = observed.client.submit({"job": "obey"}), observed.client.submit({"job": "obey"})
    start = time.monotonic()
    observed.client.cancel(queued)
    observed.client.cancel(running)  # the process is still starting
    assert (observed.end(queued), observed.end(running)) == (Cancelled(queued), Cancelled(running))
    assert time.monotonic() - start < 0.5
    assert observed.pid()
    assert not [e for e in observed.events if isinstance(e, Progress) and e.text == "obeying"]
    observed.client.cancel(running)
    observed.client.cancel(999)
    assert observed.pid()


def test_a_killed_worker_fails_its_job_only_and_is_started_again(observed: Observed) -> None:
    before = observed.pid()
    job, queued = observed.client.submit({"job": "block"}), observed.client.submit({"job": "echo"})
    observed.begin(job, "blocking")
    os.kill(before, signal.SIGKILL)
    failed = observed.end(job)
    assert isinstance(failed, Failed)
    assert "most likely because the memory was full" in failed.sentence
    assert observed.end(queued).result["pid"] != before


@pytest.mark.parametrize(("job", "reason"), [({"job": "crash"}, "Segmentation fault"), ({"job": "leave", "code": 5}, "exit code 5")])
def test_a_crash_is_one_sentence(observed: Observed, job: dict[str, Any], reason: str) -> None:
    failed = observed.end(observed.client.submit(job))
    assert isinstance(failed, Failed)
    assert failed.sentence.startswith("The worker stopped unexpectedly (")
    assert reason in failed.sentence
    assert "\n" not in failed.sentence
    assert observed.pid()


def test_an_idle_worker_may_die_unnoticed(observed: Observed) -> None:
    before = observed.pid()
    os.kill(before, signal.SIGKILL)
    assert eventually(lambda: not is_alive(before))
    time.sleep(0.1)
    assert observed.client.poll() == []
    assert observed.pid() != before


def test_a_worker_that_dies_between_two_jobs_costs_neither(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be dead already when the job is sent, and its client learn of it only then: with the scan not yet, or already, handed over."""
    for seconds in (0.5, 0.0):
        real = worker_client.stage

        def slow(*arguments: Any, seconds: float = seconds, real: Callable[..., Any] = real) -> dict[str, Any]:
            time.sleep(seconds)
            return real(*arguments)

        monkeypatch.setattr(worker_client, "stage", slow)
        before = observed.pid()
        job = observed.client.submit({"job": "describe", "volume": make_volume()})
        os.kill(before, signal.SIGKILL)
        ended = observed.end(job)
        if isinstance(ended, Failed):  # it had begun the job after all
            assert seconds == 0.0
            assert "memory was full" in ended.sentence
        else:
            assert ended.result["shape"] == [3, 4, 5]
        monkeypatch.setattr(worker_client, "stage", real)


def test_failures_of_the_job_are_handed_on(observed: Observed) -> None:
    job = observed.client.submit({"job": "memory", "kind": "torch"})
    assert observed.end(job).sentence.startswith("There is not enough memory for this scan.")
    assert "OutOfMemoryError" in observed.client.log()


def test_restart_fails_the_running_job_and_goes_on_with_the_next(observed: Observed) -> None:
    before = observed.pid()
    job, queued = observed.client.submit({"job": "block"}), observed.client.submit({"job": "echo"})
    observed.begin(job, "blocking")
    observed.client.restart()
    assert observed.end(job) == Failed(job, "The worker was restarted. Submit the job again.")
    assert observed.end(queued).result["pid"] != before
    assert eventually(lambda: not is_alive(before))


def test_close_cancels_everything_and_leaves_nothing_behind(observed: Observed, tmp_path: Path) -> None:
    before = observed.pid()
    jobs = [observed.client.submit({"job": "block", "volume": make_volume()}), observed.client.submit({"job": "echo"})]
    observed.begin(jobs[0], "blocking")
    assert folders(tmp_path) != []
    observed.client.close()
    assert [observed.end(job) for job in jobs] == [Cancelled(job) for job in jobs]
    assert eventually(lambda: not is_alive(before) and folders(tmp_path) == [])
    observed.client.close()
    observed.client.restart()
    with pytest.raises(InputError, match="was closed"):
        observed.client.submit({"job": "echo"})


def test_a_worker_that_cannot_start_is_one_sentence(tmp_path: Path) -> None:
    for python, environment, reason in (
        (str(tmp_path / "no_python"), None, "cannot be started with"),
        (None, scripted_environment(tmp_path, UAE_TEST_WITHOUT_TORCH="1"), "is needed is missing or damaged"),
        (None, {**os.environ, "PYTHONHOME": str(tmp_path)}, "stopped unexpectedly"),
    ):
        observed = Observed(WorkerClient(python, environment))
        for _ in range(2):
            failed = observed.end(observed.client.submit({"job": "probe"}))
            assert isinstance(failed, Failed)
            assert reason in failed.sentence
        observed.client.close()


def test_an_environment_that_no_process_can_have_is_one_sentence(tmp_path: Path) -> None:
    observed = Observed(WorkerClient(env={**os.environ, "ZERO": "a\0b"}))
    for _ in range(2):
        assert isinstance(observed.end(observed.client.submit({"job": "echo"})), Failed)
    observed.client.close()


def test_what_cannot_be_handed_over_is_one_sentence(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = observed.end(observed.client.submit({"job": "echo", "value": object()}))
    assert odd.sentence == "The job cannot be handed to the worker: object cannot be sent to the worker."

    def full(*_: Any) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker_client, "stage", full)
    assert "No space left on device" in observed.end(observed.client.submit({"job": "describe", "volume": make_volume()})).sentence


def test_time_left_follows_the_pace_and_ignores_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = worker_client._Supervisor("python", {})
    running = worker_client._Running(1)
    for now, fraction in [(0.0, 0.0), (50.0, 0.0), (50.5, 0.1), (54.0, 0.4), (56.0, 0.5), (60.0, 1.0)]:
        monkeypatch.setattr(worker_client.time, "monotonic", lambda now=now: now)
        supervisor._progress(running, fraction, "text")
    left = [supervisor.events.get_nowait().seconds_left for _ in range(6)]  # type: ignore[union-attr]
    assert left[:3] == [None, None, None]  # loading counts for nothing, and half a second is too short to tell
    assert left[3:] == pytest.approx([6.0, 6.0, 0.0])  # 0.1 a second since the work began at 50 s


def test_the_folder_it_runs_in_cannot_disturb_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "numpy", "queue"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(tmp_path)
    observed = Observed(WorkerClient(env=scripted_environment(tmp_path)))
    assert observed.pid()
    observed.client.close()


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands for Slicer's launcher")
def test_the_worker_behind_a_launcher_is_killed_too(observed: Observed, tmp_path: Path) -> None:
    """Slicer's PythonSlicer starts the real Python as a child process."""
    launcher = tmp_path / "PythonSlicer"
    launcher.write_text(
        f'#!/bin/sh\n"{sys.executable}" "$@" &\nwait\n'.replace('"$@" &', '"$@" <&3 &').replace("#!/bin/sh", "#!/bin/sh\nexec 3<&0")
    )
    launcher.chmod(0o755)
    behind = Observed(WorkerClient(str(launcher), scripted_environment(tmp_path)))
    before = behind.pid()
    job = behind.client.submit({"job": "seize"})
    behind.begin(job, "blocking")
    behind.client.cancel(job)
    assert behind.end(job) == Cancelled(job)
    assert eventually(lambda: not is_alive(before))
    behind.client.close()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks up processes in /proc")
def test_the_worker_ends_when_its_client_is_killed(tmp_path: Path) -> None:
    code = f"""
        import sys, time
        from UniversalAnatomicalEmbeddingLib.worker.client import WorkerClient, Done
        client = WorkerClient(env={scripted_environment(tmp_path)!r})
        client.submit({{"job": "echo"}}); client.submit({{"job": "block"}})
        while True:
            for event in client.poll():
                if isinstance(event, Done): print(event.result["pid"], flush=True)
                elif event.text == "blocking": print("blocking", flush=True)
            time.sleep(0.01)
    """
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert parent.stdout.readline() == "blocking\n"
    assert is_alive(worker)
    assert len(folders(tmp_path)) == 1
    parent.kill()
    parent.wait()
    assert eventually(lambda: not is_alive(worker), 10.0)
    assert folders(tmp_path) == []


def test_events_are_values() -> None:
    assert Cancelled(3) == Cancelled(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cancelled(3).job = 4  # type: ignore[misc]


def test_the_python_beside_the_application_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", {"PythonSlicer": "/slicer/bin/PythonSlicer"}.get)
    for executable, expected in (
        ("/usr/bin/python3", "/usr/bin/python3"),
        ("/slicer/bin/PythonSlicer", "/slicer/bin/PythonSlicer"),
        ("/slicer/bin/SlicerApp-real", "/slicer/bin/PythonSlicer"),
    ):
        monkeypatch.setattr(sys, "executable", executable)
        assert default_python() == expected
