"""``return_documents`` of /v1/rerank: the texts that were asked about, put into the answer that ranks them. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from app.api.fields import Document, Fields, RerankFields
from app.errors import UpstreamError

_MOST_DOCUMENTS = 1000


class _Result(Struct):
    index: Annotated[int, Meta(ge=0)]
    relevance_score: Raw
    document: Document | UnsetType = UNSET


class _Ranked(Struct):
    """The answer, best document first; all but the results goes out as it came."""

    results: Annotated[list[_Result], Meta(max_length=_MOST_DOCUMENTS)]
    model: Raw | UnsetType = UNSET
    object: Raw | UnsetType = UNSET
    usage: Raw | UnsetType = UNSET


def documents_to_return(fields: Fields) -> list[str] | None:
    """The texts that are to stand in the answer, in the request's order; None where the answer goes out as it comes.

    The wish is taken out of the request: no engine knows it, and another server would put them in by itself.
    """
    if not isinstance(fields, RerankFields):
        return None
    wanted, fields.return_documents = fields.return_documents, None
    return [each for each in fields.documents if isinstance(each, str)] if wanted else None


def with_documents(answer: bytes, documents: list[str]) -> bytes:
    """The answer with the text of each result beside its score.

    Raises:
        UpstreamError: It is no ranking of these documents: another shape, one that there is not, or one twice.
    """
    try:
        ranked = msgspec.json.decode(answer, type=_Ranked)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamError(f"what was to rank the documents answered with something else: {exc}") from exc
    indices = {result.index for result in ranked.results}
    if len(indices) < len(ranked.results) or any(index >= len(documents) for index in indices):
        raise UpstreamError("what was to rank the documents ranked others, or one of them twice")
    for result in ranked.results:
        result.document = Document(documents[result.index])
    return msgspec.json.encode(ranked)
