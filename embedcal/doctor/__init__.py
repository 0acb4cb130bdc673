"""What is installed, what the machine has, where things lie, how fast it is, and what to mend."""

from embedcal.doctor.examination import Examination, examine

__all__ = ["Examination", "examine"]
