"""The results of measurements, as tables for people and as records for programs."""
