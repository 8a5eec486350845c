"""Each server that the tests start, and what it needs."""

import json
import signal
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from deploy.local.java import find_java
from deploy.local.service import HOST
from schemas.errors import SetupError
from tests.bench.venvs import LackingError
from tests.servers.launching import MODELS, Api, ModelServerProcess
from tests.servers.stores import STORES

_ALL_MODELS = ("doubler", "recommender")
# Archive, model, version, and the function that is its handler. Its own version is the first that is loaded.
_TORCHSERVE_MODELS = (
    ("doubler-2", "doubler", "2.0", "doubler"),
    ("doubler-1", "doubler", "1.0", "doubler_1"),
    ("recommender", "recommender", "2.0", "recommender"),
)


class _OpenInference(ModelServerProcess):
    def ready_urls(self) -> Sequence[str]:
        return [f"{self.model_url(Api.OPEN_INFERENCE, model)}/ready" for model in _ALL_MODELS]


class MlServer(_OpenInference):
    """It is asked for each version of a model, and takes the newest by itself."""

    name = "MLServer"
    requirements = "mlserver"
    distribution = "mlserver"
    apis = (Api.OPEN_INFERENCE,)
    own_version = "2"
    older_version = "1"
    port_count = 2

    def prepare(self) -> None:
        super().prepare()
        implementations = {"doubler": "Doubler", "recommender": "Recommender"}
        x = {"name": "x", "datatype": "INT64", "shape": [-1]}
        for model, version, times in (("doubler", "1", 2), ("doubler", "2", 1), ("recommender", "2", 0)):
            settings = {
                "name": model,
                "implementation": f"mlserver_models.{implementations[model]}",
                "inputs": [x if model == "doubler" else {**x, "name": "user_idx"}],
                "parameters": {"version": version, "extra": {"times": times}},
            }
            folder = self.directory / "models" / f"{model}-{version}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model-settings.json").write_text(json.dumps(settings))

    def program(self, ports: Sequence[int]) -> list[str]:
        settings = {
            "host": HOST,
            "http_port": ports[0],
            "grpc_port": ports[1],
            "metrics_endpoint": None,
            # Its worker processes crash with the newest uvloop.
            "parallel_workers": 0,
            "debug": False,
        }
        folder = self.directory / "models"
        (folder / "settings.json").write_text(json.dumps(settings))
        return [str(self.binaries / "mlserver"), "start", str(folder)]


class KServe(_OpenInference):
    """The SDK's server, for both protocols: version 1 is the REST of TensorFlow Serving."""

    name = "KServe"
    requirements = "kserve"
    distribution = "kserve"
    apis = (Api.OPEN_INFERENCE, Api.TENSORFLOW)

    def program(self, ports: Sequence[int]) -> list[str]:
        return [str(self.binaries / "python"), str(MODELS / "kserve_server.py"), str(ports[0])]


class Triton(_OpenInference):
    """Triton with dynamic batching; PyTriton, whose version this is, starts it and serves it the functions."""

    name = "Triton"
    requirements = "triton"
    distribution = "nvidia-pytriton"
    apis = (Api.OPEN_INFERENCE,)
    own_version = "1"
    lists_of_one = True
    port_count = 2
    # Killed at once, it would leave the processes that run the models.
    death_signal = signal.SIGTERM

    def kill(self) -> None:
        # Stopped, so that none of them makes more of it meanwhile.
        self.pause()
        shared = _shared_memory(self._family())
        super().kill()
        # Its processes remove it only when they end in order.
        for path in shared:
            path.unlink(missing_ok=True)

    def environment(self) -> Mapping[str, str]:
        # The part of Triton that runs Python takes any libpython that it finds.
        return {**super().environment(), "LD_LIBRARY_PATH": str(_library_folder(self.binaries))}

    def program(self, ports: Sequence[int]) -> list[str]:
        program = [str(self.binaries / "python"), str(MODELS / "triton_server.py"), str(self.directory)]
        return [*program, *map(str, ports)]


class TorchServe(ModelServerProcess):
    """It batches by itself what comes in one request for each example.

    Java is started without its launcher, which leaves Java behind when it ends, and allows one server
    on a machine.
    """

    name = "TorchServe"
    requirements = "torchserve"
    distribution = "torchserve"
    apis = (Api.TORCHSERVE,)
    own_version = "2.0"
    older_version = "1.0"
    port_count = 5

    @classmethod
    def check(cls) -> None:
        try:
            find_java()
        except SetupError as error:
            raise LackingError(str(error)) from None

    def prepare(self) -> None:
        super().prepare()
        store = self.directory / "store"
        store.mkdir(exist_ok=True)
        for name, model, version, function in _TORCHSERVE_MODELS:
            manifest = {
                "runtime": "python",
                "archiverVersion": "0.12.0",
                "model": {
                    "modelName": model,
                    "modelVersion": version,
                    "handler": f"torchserve_handlers.py:{function}",
                },
            }
            with zipfile.ZipFile(store / f"{name}.mar", "w") as archive:
                archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
                archive.write(MODELS / "torchserve_handlers.py", "torchserve_handlers.py")

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": f"{MODELS}:{MODELS / 'torchserve'}"}

    def program(self, ports: Sequence[int]) -> list[str]:
        inference, management, metrics, grpc, grpc_management = ports
        settings = {
            "inference_address": f"http://{HOST}:{inference}",
            "management_address": f"http://{HOST}:{management}",
            "metrics_address": f"http://{HOST}:{metrics}",
            "grpc_inference_port": grpc,
            "grpc_management_port": grpc_management,
            "disable_token_authorization": "true",
            "enable_metrics_api": "false",
            "model_store": self.directory / "store",
            "load_models": ",".join(f"{archive}.mar" for archive, *_ in _TORCHSERVE_MODELS),
            "models": json.dumps(_torchserve_models()),
        }
        path = self.directory / "config.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        home = next(self.binaries.parent.glob("lib/python3.*/site-packages"))
        return [
            *(find_java(), "-Xmx512m", f"-Dmodel_server_home={home}", "-cp", f"{home}/ts/frontend/*"),
            *("org.pytorch.serve.ModelServer", "--python", str(self.binaries / "python")),
            *("-f", str(path), "-ncs"),
        ]

    def ready_urls(self) -> Sequence[str]:
        # `/ping` says healthy before the worker is.
        return [f"http://{HOST}:{self._ports[1]}/models/{model}/all" for model in _ALL_MODELS]

    def says_ready(self, response: httpx.Response) -> bool:
        return response.status_code == 200 and all(
            worker["status"] == "READY"
            for version in response.json()
            for worker in version["workers"] or [{"status": ""}]
        )


def _shared_memory(processes: Sequence[psutil.Process]) -> set[Path]:
    """The files of POSIX shared memory that processes have mapped."""
    paths: set[str] = set()
    for process in processes:
        with suppress(psutil.Error):
            paths.update(mapped.path for mapped in process.memory_maps())
    return {Path(path) for path in paths if path.startswith("/dev/shm/")}


def _torchserve_models() -> dict[str, dict[str, object]]:
    models: dict[str, dict[str, object]] = {}
    for archive, model, version, _ in _TORCHSERVE_MODELS:
        models.setdefault(model, {})[version] = {
            "marName": f"{archive}.mar",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": 32,
            "maxBatchDelay": 2,
            "responseTimeout": 60,
        }
    return models


def _library_folder(binaries: Path) -> Path:
    question = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    answer = subprocess.run([binaries / "python", "-c", question], capture_output=True, text=True, check=True)
    return Path(answer.stdout.strip())


KINDS: Sequence[type[ModelServerProcess]] = (MlServer, KServe, Triton, TorchServe, *STORES)
