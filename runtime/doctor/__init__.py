"""What is installed here, what of it works, and what mends the rest.

`probe` reads the machine and `report` gathers what it says; `diagnosis` and `fit` judge that.
"""

from .diagnosis import Choice, Diagnosis, Finding, diagnose
from .fit import BundleFit, Fit, fit
from .needs import BACKENDS
from .probe import LocalProbe, Probe, Ran
from .report import MachineReport, examine

__all__ = [
    "BACKENDS",
    "BundleFit",
    "Choice",
    "Diagnosis",
    "Finding",
    "Fit",
    "LocalProbe",
    "MachineReport",
    "Probe",
    "Ran",
    "diagnose",
    "examine",
    "fit",
]
