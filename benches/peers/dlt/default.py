"""dlt as its quick start has it: the declarative rest_api source and every default of the pipeline."""

import dlt
from dlt.sources.rest_api import rest_api_resources

from place import SOURCE_URL, SOURCES, pipeline


@dlt.source
def backlog():
    def resource(name: str) -> dict:
        return {
            "name": name.replace("-", "_"),
            "table_name": "events",
            "write_disposition": "append",
            "endpoint": {
                "path": f"{name}/events",
                "params": {"limit": 1000, "afterId": "{incremental.start_value}"},
                "data_selector": "$",
                "paginator": {"type": "cursor", "cursor_path": "$[-1].id", "cursor_param": "afterId"},
                # "open": the source never sends the id it was asked after, so there is nothing to look for twice.
                "incremental": {"cursor_path": "id", "initial_value": 0, "row_order": "asc", "range_start": "open"},
            },
        }

    yield from rest_api_resources(
        {"client": {"base_url": SOURCE_URL}, "resources": [resource(name) for name in SOURCES]}
    )


if __name__ == "__main__":
    pipeline("default").run(backlog())
