"""Revisioned documents: files of the registry with a history, a rollback, and one writer at a time."""

from service.documents.fields import MAX_REVISION, Edit, Recorded, revision_of
from service.documents.revisioned import Document, DocumentUnreadable, NothingEarlier, RevisionedDocument, now
from service.documents.storage import bring_documents

__all__ = [
    "MAX_REVISION",
    "Document",
    "DocumentUnreadable",
    "Edit",
    "NothingEarlier",
    "Recorded",
    "RevisionedDocument",
    "bring_documents",
    "now",
    "revision_of",
]
