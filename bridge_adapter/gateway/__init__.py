"""The gateway: the gRPC server that Snakepit starts. It runs no user code; it keeps an executor running and translates for it."""
