"""Bodies of requests and answers on the wire, as pydantic models; the OpenAPI page shows them."""
