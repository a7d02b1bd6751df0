"""The HorizontalPodAutoscaler's algorithm, simulated.

`controller` decides, `replay` compares its decisions with those in a flight record, `what_if` simulates the record's
load under other settings, `command` is the command line.
"""
