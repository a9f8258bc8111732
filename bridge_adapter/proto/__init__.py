"""Snakepit's service: snakepit_bridge.proto and what grpcio-tools makes of it (`make proto`)."""
