"""Load tests that give a verdict: users and shapes for Locust, the gate, the flight record, the HPA simulator."""
