"""What is installed here, whether it runs, and the commands that fix what does not."""

from nin_edge_runtime.doctor.diagnosis import Diagnosis, ProviderState, Threads, diagnose
from nin_edge_runtime.doctor.fixes import Problem
from nin_edge_runtime.doctor.probe import Probe

__all__ = ["Diagnosis", "Probe", "Problem", "ProviderState", "Threads", "diagnose"]
