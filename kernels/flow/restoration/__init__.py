"""Image restoration as an energy descent: the first job of the flow runtime, with a solver of its own."""
