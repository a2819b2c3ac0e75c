"""`ana` on a Dask and on a Ray cluster, both on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from curves import analyse, elsewhere, net, samples
from places import python_path

from onnxprune.decisions.plan import Analysis
from onnxprune.errors import DataError, UsageError, WorkerError
from onnxprune.evaluate.sensitivity.clusters import Ray

pytestmark = pytest.mark.slow


HERE = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((HERE, 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def surroundings() -> dict[str, str]:
    """The workers have to find the tests' own metrics."""
    path = python_path(Path(__file__).parent)
    return {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def dask() -> Iterator[str]:
    pytest.importorskip("distributed")
    (port,) = free_ports(1)
    address = f"{HERE}:{port}"
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", HERE, "--port", str(port)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://{address}", "--no-nanny"]
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": surroundings(),
    }
    started = [subprocess.Popen([*scheduler, "--no-dashboard"], **quiet)]
    started += [subprocess.Popen([*worker, "--no-dashboard", "--nthreads", "1"], **quiet) for _ in range(2)]
    wait_for(port)
    yield f"dask://{address}"
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def ray() -> Iterator[str]:
    pytest.importorskip("ray")
    gcs, client, low = (*free_ports(1), 20_000 + os.getpid() % 5_000, 30_000)
    start = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=2", f"--port={gcs}",
        f"--ray-client-server-port={client}", f"--min-worker-port={low}", f"--max-worker-port={low + 99}",
        "--include-dashboard=false", "--disable-usage-stats", "--block",
    ]  # fmt: skip
    head = subprocess.Popen(
        start,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=surroundings(),
        start_new_session=True,
    )
    wait_for(client)
    yield f"ray://{HERE}:{client}"
    head.terminate()
    head.wait(60)


def wait_for(port: int, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection((HERE, port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"nobody listens at port {port}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the clusters' own packages
@pytest.mark.parametrize("kind", ["dask", "ray"])
class TestClusters:
    @pytest.fixture
    def cluster(self, kind: str, request: pytest.FixtureRequest) -> str:
        address: str = request.getfixturevalue(kind)
        return address

    def test_a_cluster_finds_the_curves_of_one_process(self, cluster: str, tmp_path: Path) -> None:
        one, many = tmp_path / "one.json", tmp_path / "many.json"
        for mode in ("exact", "adaptive"):
            options: dict[str, Any] = {"metric": "kl", "mode": mode, "force": True}
            analyse(net(), samples(net(), count=150), **options, file=one)
            analyse(net(), samples(net(), count=150), **options, file=many, backend=cluster, workers=2)
            assert one.read_bytes() == many.read_bytes()

    def test_errors_of_the_work_arrive(self, cluster: str) -> None:
        with pytest.raises(DataError, match="RuntimeError: not here"):
            analyse(net(), samples(net()), metric=partial(elsewhere, os.getpid(), "raises"), backend=cluster)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_of_a_cluster_that_die(dask: str, tmp_path: Path) -> None:
    """Last of all: Dask gives a task up when it has cost several workers, and here all of them."""
    file = tmp_path / "analysis.json"
    with pytest.raises(WorkerError, match=r"Dask cluster at .* failed") as caught:
        analyse(
            net(), samples(net()), metric=partial(elsewhere, os.getpid(), "dies"), backend=dask, file=file
        )
    assert "`resume`" in caught.value.hint
    assert Analysis.from_json(file.read_text()).baseline == 1.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_an_address_without_an_answer_is_an_error(kind: str, tmp_path: Path) -> None:
    pytest.importorskip({"dask": "distributed", "ray": "ray"}[kind])
    (port,) = free_ports(1)
    file = tmp_path / "analysis.json"
    begin = time.monotonic()
    with pytest.raises(WorkerError, match=f"no {kind.title()} cluster answers at {HERE}:{port}"):
        analyse(net(), samples(net()), backend=f"{kind}://{HERE}:{port}", file=file)
    assert time.monotonic() - begin < 60  # most of it to import the client, on a busy machine
    assert not file.exists()


@pytest.mark.parametrize("failures", [1, 5])
def test_a_ray_head_that_is_busy_is_asked_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Head:
        asked = closed = 0

        def init(self, address: str, **how: Any) -> None:
            self.asked += 1
            if self.asked <= failures:
                raise ConnectionAbortedError("Initialization failure from server")

        def shutdown(self) -> None:
            self.closed += 1

    head = Head()
    monkeypatch.setitem(sys.modules, "ray", head)  # type: ignore[arg-type]
    if failures == 1:
        with Ray(HERE, 1).connected() as found:
            assert found is head
        assert (head.asked, head.closed) == (2, 2)
    else:
        with pytest.raises(WorkerError, match="no Ray cluster answers"), Ray(HERE, 1).connected():
            pass
        assert head.asked == 3


@pytest.mark.parametrize(
    "address", ["dask", "dask://here", "http://here:80", "dask://here:80/path", "ray://:1"]
)
def test_addresses_that_make_no_sense(address: str) -> None:
    with pytest.raises(UsageError, match="is no back end"):
        analyse(net(), samples(net()), backend=address)


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_the_client_is_missing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, {"dask": "distributed", "ray": "ray"}[kind], None)
    with pytest.raises(UsageError) as caught:
        analyse(net(), samples(net()), backend=f"{kind}://{HERE}:1")
    assert f"onnxprune[{kind}]" in caught.value.hint
