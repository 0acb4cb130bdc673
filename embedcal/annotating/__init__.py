"""What a person decided about an attribute, kept beside a cache, and the cache with its labels."""

from embedcal.annotating.annotations import (
    VERDICTS,
    Annotation,
    Verdict,
    annotate,
    annotated,
    annotation,
    check_verdict,
    remove,
    values_of,
)
from embedcal.annotating.beside import beside, digest, folders, keeping, kept, rows_digest
from embedcal.annotating.prompts import encode_prompts, prompts, write_prompts
from embedcal.annotating.views import labelled, notes

__all__ = [
    "VERDICTS",
    "Annotation",
    "Verdict",
    "annotate",
    "annotated",
    "annotation",
    "beside",
    "check_verdict",
    "digest",
    "encode_prompts",
    "folders",
    "keeping",
    "kept",
    "labelled",
    "notes",
    "prompts",
    "remove",
    "rows_digest",
    "values_of",
    "write_prompts",
]
