"""Takes: what was received and made, on disk, readable to the last whole record whatever happened to the writer."""

from fusion_server.takes.reader import TakeReader
from fusion_server.takes.writer import TakeWriter

__all__ = ["TakeReader", "TakeWriter"]
