"""Image restoration as an energy descent: the first job of the flow runtime, as a spec and its run."""
