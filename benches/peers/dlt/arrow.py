"""dlt at its fastest: pages as Arrow tables, which go past the normalizer, and into PostgreSQL by COPY from CSV."""

import dlt
import pyarrow as pa
from dlt.sources.helpers.rest_client import RESTClient
from dlt.sources.helpers.rest_client.paginators import JSONResponseCursorPaginator

from place import SOURCE_URL, SOURCES, pipeline

READ = pa.schema(
    {"id": pa.int64(), "type": pa.string(), "occurredAt": pa.string(), "subject": pa.string(), "note": pa.string()}
)
STORED = pa.schema(
    {
        "id": pa.int64(),
        "type": pa.string(),
        "occurred_at": pa.timestamp("us", tz="UTC"),
        "subject": pa.string(),
        "note": pa.string(),
    }
)


@dlt.source
def backlog():
    def resource(name: str):
        def pages(after=dlt.sources.incremental("id", initial_value=0, row_order="asc", range_start="open")):
            client = RESTClient(SOURCE_URL)
            paginator = JSONResponseCursorPaginator(cursor_path="$[-1].id", cursor_param="afterId")
            first = {"limit": 1000, "afterId": after.start_value}
            for page in client.paginate(f"{name}/events", params=first, paginator=paginator, data_selector="$"):
                if page:
                    read = pa.Table.from_pylist(page, schema=READ)
                    yield read.rename_columns(STORED.names).cast(STORED)

        return dlt.resource(
            pages, name=name.replace("-", "_"), table_name="events", write_disposition="append", parallelized=True
        )

    yield from map(resource, SOURCES)


if __name__ == "__main__":
    pipeline("arrow").run(backlog(), loader_file_format="csv")
