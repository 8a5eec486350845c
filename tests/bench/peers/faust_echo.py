"""(b) A stock Faust agent that does no work: `async for` and one `send` a record."""

import faust
from faust_app import INPUT, OUTPUT, make_app, run

app = make_app()
source = app.topic(INPUT, value_type=bytes, key_serializer="raw", value_serializer="raw")
sink = app.topic(OUTPUT, value_type=bytes, key_serializer="raw", value_serializer="raw")


@app.agent(source)
async def echo(stream: faust.StreamT[bytes]) -> None:
    async for event in stream.events():
        # Naming the partition spares a hash of the key, in Python, a record.
        await sink.send(key=event.key, value=event.value, partition=event.message.partition)


run(app)
