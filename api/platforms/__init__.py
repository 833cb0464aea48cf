"""What hosting platforms send: SageMaker's and Vertex AI's forms of the other protocols."""
