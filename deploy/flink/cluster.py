"""A Flink cluster on this machine: JobManager, TaskManager, Beam's job server and a pool for SDK workers.

    python deploy/flink/cluster.py up --slots 2       # in the background; returns once it is ready
    python deploy/flink/cluster.py down
    python deploy/flink/cluster.py run -- COMMAND     # a cluster for one command

For trying, testing and measuring; the Kubernetes manifests are for work. All but the job server listen on localhost
only. A TaskManager or worker pool that dies is started again, as Kubernetes would do; no process outlives the tool. The
jars come from `make flink`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "flink"
READY_SECONDS = 120
# Flink serializes by reflection into packages that Java 17 closes.
JAVA_OPENS = ("lang", "net", "io", "nio", "lang.reflect", "text", "time", "util", "util.concurrent",
              "util.concurrent.atomic", "util.concurrent.locks")  # fmt: skip
JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
UPLOADED = ("beam-runners-flink-", "flink-java-", "flink-clients-", "flink-optimizer-", "flink-streaming-java-")
RESTARTED = ("taskmanager", "pool")


class ClusterError(RuntimeError):
    """The cluster did not come up, or one of its processes died that nothing can do without."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What listens where, on localhost. The defaults are those of the command line."""

    rest: int = 18081
    rpc: int = 16123
    job: int = 18099
    artifact: int = 18098
    expansion: int = 18097
    pool: int = 50000

    @classmethod
    def free(cls) -> Ports:
        """Ports that nobody uses now."""
        sockets = [socket.create_server(("localhost", 0)) for _ in fields(cls)]
        numbers = [listening.getsockname()[1] for listening in sockets]
        for listening in sockets:
            listening.close()
        return cls(**dict(zip((field.name for field in fields(cls)), numbers, strict=True)))


class LocalCluster:
    """The processes of one cluster, as a context manager.

    folder: of this cluster alone, for its configuration, logs and scratch files. slots: tasks at a time, each with one
    bundle of parts under way. jars: what `make flink` fetched. pool_environment: further environment variables of the
    pool and its workers. pool_options: of its command line.
    """

    def __init__(
        self,
        folder: Path,
        *,
        slots: int = 2,
        ports: Ports | None = None,
        jars: Path = CACHE / "jars",
        pool_environment: Mapping[str, str] | None = None,
        pool_options: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.slots = slots
        self.ports = ports or Ports.free()
        self._jars = jars
        self._pool_environment = dict(pool_environment or {})
        self._pool_options = tuple(pool_options)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._keeper = threading.Thread(target=self._keep_alive, daemon=True, name="keeper")
        self._failure: str | None = None

    @property
    def job_endpoint(self) -> str:
        """For --job_endpoint."""
        return f"localhost:{self.ports.job}"

    @property
    def pool_endpoint(self) -> str:
        """For --environment_type=EXTERNAL --environment_config."""
        return f"localhost:{self.ports.pool}"

    def __enter__(self) -> LocalCluster:
        if not list(self._jars.glob("beam-runners-flink-*.jar")):
            raise ClusterError(
                f"{self._jars} holds no Flink runner: run `make flink` first (it needs Java 17 and Maven)"
            )
        self._write_configuration()
        try:
            for name in ("jobmanager", "taskmanager", "pool", "jobserver"):
                self._start(name)
            self._keeper.start()
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self) -> None:
        """Until every slot is there and job server and pool answer. Raises ClusterError after two minutes."""
        checks: tuple[Callable[[], bool], ...] = (
            lambda: self.overview().get("slots-total", 0) >= self.slots,
            lambda: _listens(self.ports.job),
            lambda: _listens(self.ports.pool),
        )
        until = time.monotonic() + READY_SECONDS
        while not all(check() for check in checks):
            if self._failure or time.monotonic() > until:
                raise ClusterError(f"{self._failure or 'the cluster is not ready'}; its logs are in {self._logs}")
            time.sleep(0.3)

    def overview(self) -> dict[str, int]:
        """Flink's own summary (taskmanagers, slots-total, slots-available, jobs-running); empty while it is down."""
        try:
            with urllib.request.urlopen(f"http://localhost:{self.ports.rest}/overview", timeout=5) as answer:
                return dict(json.load(answer))
        except OSError:
            return {}

    def kill(self, name: str) -> None:
        """SIGKILL the process `taskmanager` or `pool`; it is started again."""
        with self._lock:
            self._processes[name].kill()

    def pid(self, name: str) -> int:
        """Process id of jobmanager, taskmanager, pool or jobserver."""
        with self._lock:
            return self._processes[name].pid

    def worker_pids(self) -> list[int]:
        """The SDK worker processes that the pool has started, oldest first."""
        return self._pool_children("pipelines.runners.worker")

    def engine_pids(self) -> list[int]:
        """The processes in which the pool keeps engines, oldest first."""
        return self._pool_children("pipelines.engines.kept_host")

    def pool_log(self) -> str:
        """What the pool, its workers and its engines have written."""
        return (self._logs / "pool.log").read_text(errors="replace")

    def _pool_children(self, module: str) -> list[int]:
        found: list[int] = []
        with suppress(FileNotFoundError, ProcessLookupError):  # the pool, or one of them, died meanwhile
            for task in Path(f"/proc/{self.pid('pool')}/task").iterdir():
                children = map(int, (task / "children").read_text().split())
                found += [pid for pid in children if module.encode() in _arguments(pid)]
        return sorted(found)

    def stop(self) -> None:
        """End every process, those that they started too."""
        self._stopping.set()
        if self._keeper.is_alive():
            self._keeper.join()
        processes = list(self._processes.values())
        for process in processes:
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def check(self) -> None:
        """Raises ClusterError if a process died that is not started again."""
        if self._failure:
            raise ClusterError(f"{self._failure}; its logs are in {self._logs}")

    @property
    def _logs(self) -> Path:
        return self.folder / "logs"

    def _write_configuration(self) -> None:
        for name in ("conf", "logs", "work", "artifacts"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        added = {
            "jobmanager.rpc.port": self.ports.rpc,
            "rest.port": self.ports.rest,
            "taskmanager.numberOfTaskSlots": self.slots,
            "parallelism.default": self.slots,
            "io.tmp.dirs": self.folder / "work",
            "web.upload.dir": self.folder / "work",
        }
        text = (HERE / "flink-conf.yaml").read_text() + "".join(f"{key}: {value}\n" for key, value in added.items())
        (self.folder / "conf" / "flink-conf.yaml").write_text(text)

    def _command(self, name: str) -> list[str]:
        if name == "pool":
            command = [sys.executable, "-m", "pipelines.runners.worker_pool", f"--port={self.ports.pool}"]
            return [*command, *self._pool_options]
        java = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={self.folder / 'work'}"]
        java += [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in JAVA_OPENS]
        java += ["--add-opens=java.base/sun.nio.ch=ALL-UNNAMED", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
        if name == "jobserver":
            # Beam's job server uploads its class path (152 MB) with every job, though this cluster has it all. What
            # stands on the boot class path it does not see; only what must find user code has to be on the other.
            jars = sorted(self._jars.glob("*.jar"))
            seen = [str(jar) for jar in jars if jar.name.startswith(UPLOADED)]
            unseen = [str(jar) for jar in jars if not jar.name.startswith(UPLOADED)]
            java += [f"-Xbootclasspath/a:{':'.join(unseen)}", "-cp", ":".join(seen)]
        else:
            java += ["-cp", f"{self._jars}/*"]
        conf = str(self.folder / "conf")
        if name == "jobmanager":
            return [*java, "-Xmx448m", JOB_MANAGER, "--configDir", conf, "--executionMode", "cluster"]
        if name == "taskmanager":
            return [*java, "-Xmx512m", "-XX:MaxDirectMemorySize=576m", TASK_MANAGER, "--configDir", conf]
        ports = self.ports
        return [
            *(*java, "-Xmx384m", JOB_SERVER, "--flink-master", f"localhost:{ports.rest}"),
            *("--job-host", "localhost", "--job-port", str(ports.job), "--artifact-port", str(ports.artifact)),
            *("--expansion-port", str(ports.expansion), "--artifacts-dir", str(self.folder / "artifacts")),
        ]

    def _start(self, name: str) -> None:
        with open(self._logs / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                # SIGKILL when the thread that started it ends: a killed tool leaves nothing behind.
                ["setpriv", "--pdeathsig", "KILL", "--", *self._command(name)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | (self._pool_environment if name == "pool" else {}),
            )

    def _keep_alive(self) -> None:
        """Start again what may be started again; the one thread of the cluster's whole life, see `_start`."""
        while not self._stopping.wait(0.5):
            with self._lock:
                for name, process in self._processes.items():
                    if process.poll() is None or self._failure:
                        continue
                    if name in RESTARTED:
                        self._start(name)
                    else:
                        self._failure = f"the {name} ended with exit code {process.returncode}"


def _arguments(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
        return True
    return False


def up(folder: Path, slots: int) -> None:
    """Start a cluster in the background and wait until it is ready. Raises ClusterError."""
    state = folder / "cluster.json"
    if state.exists():
        raise ClusterError(f"{state} is there: a cluster is up (or died): run `down` first")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "cluster.log", "wb") as log:
        command = [sys.executable, __file__, "serve", "--folder", str(folder), "--slots", str(slots)]
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    while not state.exists():
        if server.poll() is not None:
            raise ClusterError((folder / "cluster.log").read_text().strip())
        time.sleep(0.3)
    told = json.loads(state.read_text())
    print(
        f"Flink is up: dashboard http://localhost:{told['rest']}, logs in {folder / 'logs'}.\n"
        "Give --runner flink, and after a lone --:\n"
        f"  --job_endpoint=localhost:{told['job']} --parallelism={slots}\n"
        "for workers in the client; for worker processes of the pool also\n"
        f"  --environment_type=EXTERNAL --environment_config=localhost:{told['pool']} --sdk_worker_parallelism={slots}"
    )


def serve(folder: Path, slots: int) -> None:
    """The cluster itself, until SIGTERM or Ctrl-C."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    state = folder / "cluster.json"
    with LocalCluster(folder, slots=slots, ports=Ports()) as cluster:
        partial = state.with_suffix(".partial")
        partial.write_text(json.dumps({"pid": os.getpid(), **asdict(cluster.ports)}))
        partial.replace(state)
        try:
            while not ended.wait(1):
                cluster.check()
        finally:
            state.unlink()


def down(folder: Path) -> None:
    """Stop the cluster of a folder and wait until it is gone; none is no error."""
    state = folder / "cluster.json"
    if not state.exists():
        print("no cluster is up")
        return
    pid = int(json.loads(state.read_text())["pid"])
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while True:
            os.kill(pid, 0)
            time.sleep(0.2)
    state.unlink(missing_ok=True)
    print("Flink is down")


def run(folder: Path, slots: int, command: Sequence[str]) -> int:
    """A cluster for one command, which finds JOB_ENDPOINT and POOL_ENDPOINT in its environment; its exit code."""
    shutil.rmtree(folder, ignore_errors=True)
    with LocalCluster(folder, slots=slots) as cluster:
        environment = os.environ | {"JOB_ENDPOINT": cluster.job_endpoint, "POOL_ENDPOINT": cluster.pool_endpoint}
        return subprocess.run(command, env=environment, check=False).returncode


def main() -> int:
    """The command line; exit code 1 where the cluster failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("up", "down", "serve", "run"))
    parser.add_argument("--folder", type=Path, default=CACHE / "cluster", help="its configuration, logs, scratch files")
    parser.add_argument("--slots", type=int, default=2, help="tasks at a time (default 2)")
    arguments, command = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    try:
        if options.action == "run":
            return run(folder, options.slots, command)
        if options.action == "down":
            down(folder)
        else:
            {"up": up, "serve": serve}[options.action](folder, options.slots)
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
