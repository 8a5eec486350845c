"""The backend of a version with an endpoint, by its framework."""

from urllib.parse import urlsplit

from schemas.errors import ArtifactError
from schemas.json_schema import compile_schema
from schemas.mapping import schema_of
from schemas.models import Framework, ModelSpec
from workers.backends.model_server import ModelServer
from workers.backends.open_inference import OpenInferenceBackend
from workers.backends.port import DescribedBackend
from workers.backends.response_room import ResponseRoom
from workers.backends.tensorflow import TensorflowBackend
from workers.backends.tensors import declared
from workers.backends.torchserve import FAULTS, TorchServeBackend
from workers.network.endpoints import Outbound

# framework -> the URL path of a model on its server, and the path of one of its versions below it.
_PATHS = {
    Framework.OPEN_INFERENCE: ("/v2/models/{model}", "/versions/{version}"),
    Framework.TENSORFLOW: ("/v1/models/{model}", "/versions/{version}"),
    Framework.TORCHSERVE: ("/predictions/{model}", "/{version}"),
}


def remote_backend(spec: ModelSpec, outbound: Outbound, room: ResponseRoom | None = None) -> DescribedBackend:
    """The backend that calls the model server of a version; `room` is what all servers of the process share.

    Raises ArtifactError when its endpoint is not allowed, SetupError when the settings of allowed hosts are
    invalid.
    """
    server = ModelServer(
        model_url(spec),
        outbound,
        calls_in_flight=spec.server.max_calls,
        connect_timeout_seconds=spec.server.connect_timeout_ms / 1000,
        faults=FAULTS if spec.framework is Framework.TORCHSERVE else (),
        room=room,
        host=spec.server.host,
    )
    mapping = spec.mapping
    outputs = None if mapping is None else mapping.outputs
    tensors = [] if mapping is None else declared(mapping)
    match spec.framework:
        case Framework.OPEN_INFERENCE:
            return OpenInferenceBackend(
                server,
                spec.input_schema,
                declared=tensors,
                outputs=outputs,
                content_type=spec.server.content_type,
            )
        case Framework.TENSORFLOW:
            if not urlsplit(server.url).path:
                # The request's path begins with a colon, which would extend the port.
                raise ArtifactError("endpoint has no path; name server.model, or write …/v1/models/NAME")
            return TensorflowBackend(
                server,
                form=spec.server.form,
                signature_name=spec.server.signature_name,
                declared=tensors,
                fits=compile_schema(schema_of(mapping)) if mapping is not None and tensors else None,
                outputs=outputs,
            )
        case Framework.TORCHSERVE:
            example = None if spec.example is None else spec.example.input
            return TorchServeBackend(server, example=example)
    raise ArtifactError(f"framework {spec.framework} has no model server")


def model_url(spec: ModelSpec) -> str:
    """The URL of the model on its server: the endpoint itself, unless the version has `server.model`."""
    assert spec.endpoint is not None  # every framework but onnx requires an endpoint
    if spec.server.model is None:
        return spec.endpoint
    path, of_version = _PATHS[spec.framework]
    url = spec.endpoint.rstrip("/") + path.format(model=spec.server.model)
    return url if spec.server.version is None else url + of_version.format(version=spec.server.version)
