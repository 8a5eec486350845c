"""deploy/demo/publish.py: schemas, and the events that register both versions."""

from datetime import UTC, datetime
from pathlib import Path

from deploy.demo.publish import model_spec, promotion_events
from deploy.demo.scenario import MODEL_NAME
from registry import lifecycle
from registry.routing import weights_of
from registry.snapshot import RegisteredModel
from schemas.json_schema import compile_schema


def test_the_schemas_accept_only_the_models_inputs_and_outputs(tmp_path: Path) -> None:
    """An input is an existing user; an output is ten different items."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"model")
    spec = model_spec("v1", path, users=3, items=20, hit_rate=0.5, trained_on_rows=7)
    accepts = compile_schema(spec.input_schema).is_valid
    promises = compile_schema(spec.output_schema).is_valid
    assert [accepts({"user_idx": user}) for user in (0, 2, -1, 3, "1")] == [True, True, False, False, False]
    assert not accepts({})
    assert not accepts({"user_idx": 1, "more": 2})
    assert promises(list(range(10)))
    assert not any(map(promises, [list(range(9)), list(range(11)), [0] * 10, list(range(15, 25)), None]))
    assert spec.metrics == {"hit_rate_at_10": 0.5, "trained_on_rows": 7}


def test_the_events_split_the_traffic(tmp_path: Path) -> None:
    """Applied in order, no event is refused, and the canary gets 10%."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"model")
    first, second = (
        model_spec(version, path, users=3, items=20, hit_rate=0.5, trained_on_rows=7)
        for version in ("v1", "v2")
    )
    model: RegisteredModel | None = None
    for event in promotion_events(first, second):
        assert event.model_name == MODEL_NAME
        model = lifecycle.apply(model, event, datetime.now(UTC)).model
    assert model is not None
    assert weights_of(model.route) == {"v1": 90, "v2": 10}
