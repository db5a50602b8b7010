"""Measurements: layers, training steps and integer inference against convolutions and older formulations."""
