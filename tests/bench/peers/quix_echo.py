"""(c) A Quix Streams application that does no work."""

from quix_app import make_app

app, source, sink = make_app()
app.dataframe(source).to_topic(sink)
app.run()
