"""From a finished run to new images: its classes, how sure, and how far that can be believed."""

from embedcal.predicting.calibration import Calibration, Scored, calibrate, stored_temperature
from embedcal.predicting.diagram import draw
from embedcal.predicting.prediction import Predicted, Predictions, PredictOptions, predict
from embedcal.predicting.scorer import Neighbour
from embedcal.predicting.scores import Rows, Score
from embedcal.predicting.temperature import Temperature, fit_temperature

__all__ = [
    "Calibration",
    "Neighbour",
    "PredictOptions",
    "Predicted",
    "Predictions",
    "Rows",
    "Score",
    "Scored",
    "Temperature",
    "calibrate",
    "draw",
    "fit_temperature",
    "predict",
    "stored_temperature",
]
