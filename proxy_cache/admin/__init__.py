"""What the metrics port answers: metrics, health, the API under ``/api/v1``, and who may ask."""
