"""What the request path is configured with: its topics and limits."""

from dataclasses import dataclass

from streams.kafka.batch_producer import MAX_REQUEST_BYTES
from streams.serving.output_batching import OutputTopic

# For the ids, names, error details and carried headers of a response.
RESPONSE_ROOM_BYTES = 32 * 1024
MAX_PREDICTIONS_BYTES = MAX_REQUEST_BYTES - 2 * RESPONSE_ROOM_BYTES
"""What one request to a broker takes; the topic of responses may take less."""
# A call may run this much longer than its last deadline, so that its requests expire before it fails.
DEADLINE_MARGIN_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """Topics and limits."""

    responses: OutputTopic
    dead_letters: OutputTopic
    max_record_bytes: int

    @property
    def max_predictions_bytes(self) -> int:
        """The largest predictions that fit into a response beside everything but its key."""
        return min(self.responses.max_bytes - RESPONSE_ROOM_BYTES, MAX_PREDICTIONS_BYTES)
