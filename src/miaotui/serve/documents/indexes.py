"""``/v1/indexes``: documents put in, found and deleted over HTTP; and an index as a partition.

Owns these routes. Knows the index by its public calls. Invariant: work on an index runs in threads,
never in the event loop; a caller reaches its own indexes and those for all, no other's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.errors import FieldError, RequestError
from miaotui.retrieval.document import Document, Results
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.ingest.pdf_text import decoded_file, pdf_text_apart
from miaotui.retrieval.meaning.vector_files import remove_vectors
from miaotui.retrieval.query.shares import shares_of
from miaotui.serve.documents.indexes_wire import (
    AddDocuments,
    Added,
    DeletedDocuments,
    DeletedIndex,
    DocumentBody,
    IndexList,
    PartitionPassages,
    PartitionRequest,
    PartitionStatistics,
    SearchAnswer,
    SearchRequest,
    WholeDocument,
)
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body
from miaotui.serve.http.errors import ApiError, bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import caller_of, received, services_of

_NAME_FIELD = {"name": "The index's name: letters, digits, dots, hyphens and underscores."}
_ID_FIELD = {**_NAME_FIELD, "id": "A document's id, or a passage's."}
_INDEX_PATH = "/v1/indexes/{name}"


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint("/v1/indexes", "GET", list_indexes, "List the indexes", answer=IndexList),
        Endpoint(_INDEX_PATH, "DELETE", remove, "Delete an index", answer=DeletedIndex, parameters=_NAME_FIELD),
        Endpoint(
            f"{_INDEX_PATH}/documents",
            "POST",
            add,
            "Add documents, replacing those of the same ids",
            body=AddDocuments,
            answer=Added,
            parameters=_NAME_FIELD,
        ),
        Endpoint(
            f"{_INDEX_PATH}/documents/{{id:path}}",
            "GET",
            show,
            "Give the passages of a document, or of the one that a passage is from",
            answer=WholeDocument,
            parameters=_ID_FIELD,
        ),
        Endpoint(
            f"{_INDEX_PATH}/documents/{{id:path}}",
            "DELETE",
            delete,
            "Delete a document",
            answer=DeletedDocuments,
            parameters=_ID_FIELD,
        ),
        Endpoint(
            f"{_INDEX_PATH}/search",
            "POST",
            search,
            "Search an index",
            body=SearchRequest,
            answer=SearchAnswer,
            parameters=_NAME_FIELD,
        ),
        Endpoint(
            f"{_INDEX_PATH}/partition/statistics",
            "POST",
            statistics,
            "An index's share of the statistics for a query, for an index elsewhere",
            body=PartitionRequest,
            answer=PartitionStatistics,
            parameters=_NAME_FIELD,
        ),
        Endpoint(
            f"{_INDEX_PATH}/partition/passages",
            "POST",
            passages,
            "An index's best passages under given statistics, for an index elsewhere",
            body=PartitionRequest,
            answer=PartitionPassages,
            parameters=_NAME_FIELD,
        ),
    ]


async def list_indexes(http: HttpRequest) -> Response:
    """Answer with the indexes that this caller may search."""
    registry, caller = services_of(http).indexes, caller_of(http)
    found = await run_in_threadpool(lambda: registry.names(caller))
    data = [{"id": name, "object": "index"} for name in found]
    return json_response({"object": "list", "data": data})


async def remove(http: HttpRequest) -> Response:
    """Delete an index of the caller's own, and the answers that were kept from it. Raises `IndexMissingError`."""
    services, caller, name = services_of(http), caller_of(http), http.path_params["name"]

    def work() -> None:
        folder = services.indexes.remove(caller, name)
        services.drop_copies(folder)
        services.forget_answers(caller, name)
        if services.meaning is not None:
            services.meaning.forget(folder)

    await run_in_threadpool(work)
    return json_response({"id": name, "object": "index", "deleted": True})


async def add(http: HttpRequest) -> Response:
    """Add documents; the answer is sent when they are durable and can be found."""
    body = await read_body(received(http).body, AddDocuments)
    services = services_of(http)
    registry, caller, name = services.indexes, caller_of(http), http.path_params["name"]
    if sum(each.pdf is not None for each in body.documents) > 1:
        raise bad_value("documents", "holds several PDF files: send one in a request")

    def work() -> dict[str, Any]:
        documents = [_document_of(one, f"documents[{at}]") for at, one in enumerate(body.documents)]
        more_bytes = sum(len(each.body) + len(each.title) for each in documents)
        index = registry.to_change(caller, name, make=True, more_bytes=more_bytes)
        count = index.add(documents)
        services.index_changed(index)
        return {"added": len(documents), "passages": count, "version": index.version}

    return json_response(await run_in_threadpool(work), headers=ignored_fields(body))


async def show(http: HttpRequest) -> Response:
    """Answer with all passages of a document, in its order. Raises `ApiError` (404) when there is none."""
    registry, caller, name = services_of(http).indexes, caller_of(http), http.path_params["name"]
    key = http.path_params["id"]

    def work() -> list[Document]:
        index = registry.to_search(caller, name)
        found = index.get(key)
        return index.get(found[0].whole) if found else []

    passages = await run_in_threadpool(work)
    if not passages:
        raise _no_document(key)
    shown = [{"id": each.id, "title": each.title, "body": each.body, "source": each.source} for each in passages]
    return json_response({"object": "document", "id": passages[0].whole, "passages": shown})


def _document_of(body: DocumentBody, field: str) -> Document:
    """Return a document as it was given, or with the text of its PDF. Raises `FieldError` and `RequestError`."""
    row = body.model_dump(exclude={*(body.model_extra or ()), "pdf"})
    if body.pdf is not None:
        if body.body:
            raise FieldError(f"{field}.pdf", "give a body or a PDF, not both")
        try:
            found = pdf_text_apart(decoded_file(body.pdf))
        except RequestError as error:
            raise FieldError(f"{field}.pdf", str(error)) from error
        if not found.body:
            raise FieldError(f"{field}.pdf", "the PDF holds no text: its pages may be pictures")
        row |= {"body": found.body, "title": body.title or found.title}
    return Document.from_mapping(row)


def _explained(results: Results, index: Index) -> list[dict[str, Any]]:
    """Return the hits with the parts of their scores."""
    if not results:
        return []
    whole = index.statistics(results[0].ranked)
    return [{**hit.to_json(), "shares": shares_of(hit, whole).to_json()} for hit in results]


def _no_document(key: str) -> ApiError:
    message = f"There is no document {key[:200]!r} in this index"
    return ApiError(404, message, param="id", code="document_not_found")


async def delete(http: HttpRequest) -> Response:
    """Delete a document with all its passages, and the answers that were kept from its index.

    The answer is sent when no file holds the document's text any more. Raises `ApiError` (404) when there is none.
    """
    services, caller, name = services_of(http), caller_of(http), http.path_params["name"]
    key = http.path_params["id"]

    def work() -> dict[str, Any]:
        index = services.indexes.to_change(caller, name)
        is_due = index.purge_is_due  # of a deletion that a killed process has begun
        count = index.delete([key])
        if count or is_due:
            services.drop_copies(index.folder)
            services.forget_answers(caller, name)
            if services.meaning is None:
                remove_vectors(index.folder)  # without an embedder they cannot be told apart
            else:
                services.meaning.drop_deleted(index)
            services.index_changed(index)
        return {"id": key, "deleted": count > 0, "passages": count, "version": index.version}

    answer = await run_in_threadpool(work)
    if not answer["deleted"]:
        raise _no_document(key)
    return json_response(answer)


async def search(http: HttpRequest) -> Response:
    """Answer with the best passages for a query."""
    body = await read_body(received(http).body, SearchRequest)
    services = services_of(http)
    registry, caller, name = services.indexes, caller_of(http), http.path_params["name"]

    def work() -> dict[str, Any]:
        words = registry.to_search(caller, name)
        results = services.searchable(words).search(body.query, body.limit, offset=body.offset, plain=body.plain)
        return {
            "object": "list",
            "data": _explained(results, words) if body.explain else [hit.to_json() for hit in results],
            "version": results.version,
            "warnings": list(results.warnings),
        }

    return json_response(await run_in_threadpool(work), headers=ignored_fields(body))


async def statistics(http: HttpRequest) -> Response:
    """Answer the first round of a search in which this index is a partition."""
    body, part = await _partition(http)
    share = await run_in_threadpool(lambda: part().statistics(body.query, body.plain, body.weights))
    return json_response(share.to_json())


async def passages(http: HttpRequest) -> Response:
    """Answer the second round: passages scored with the statistics of the whole collection."""
    body, part = await _partition(http)

    def work() -> list[dict[str, Any]]:
        return [
            {"score": score, "passage": passage.to_json()}
            for score, passage in part().passages(body.query, body.plain, body.weights, body.statistics, body.limit)
        ]

    return json_response({"found": await run_in_threadpool(work)})


async def _partition(http: HttpRequest) -> tuple[PartitionRequest, Callable[[], Any]]:
    body = await read_body(received(http).body, PartitionRequest)
    registry, caller, name = services_of(http).indexes, caller_of(http), http.path_params["name"]

    def part() -> Any:
        index = registry.to_search(caller, name)
        if index.plan.language != body.language:
            raise bad_value("language", f"this index is in {index.plan.language}")
        return index.as_partition()

    return body, part
