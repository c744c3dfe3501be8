"""Penstock: Google Cloud Pub/Sub to Apache Spark as sealed, replayable Arrow batches."""
