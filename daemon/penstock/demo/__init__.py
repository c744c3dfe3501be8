"""The first run: emulator, publisher, daemon and a Spark query on one machine, ending in a summary that adds up.

Settings enter, figures leave. Everything is done the way a user would: child processes of the `penstock` command, the
`pubsub` format in Spark. Only the CLI imports this room: `run.run(DemoSettings)`.
"""
