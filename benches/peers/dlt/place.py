"""What `make bench-peers` says to the programs of dlt, and the pipeline of both."""

import os

import dlt

SOURCE_URL = os.environ["PEER_SOURCE_URL"]
SOURCES = os.environ["PEER_SOURCES"].split(",")


def pipeline(name: str) -> dlt.Pipeline:
    return dlt.pipeline(
        name,
        pipelines_dir=os.environ["PEER_STATE"],
        destination=dlt.destinations.postgres(os.environ["PEER_DATABASE_URL"]),
        dataset_name="peer",
    )
