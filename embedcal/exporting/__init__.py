"""A fitted head on its way out: a checkpoint of open_clip's, a matrix, or an ONNX graph."""

from embedcal.exporting.exported import FORMS, Exported, Form
from embedcal.exporting.writing import export

__all__ = ["FORMS", "Exported", "Form", "export"]
