"""Snakepit's gRPC service: the definition and what grpcio-tools generates from it."""
