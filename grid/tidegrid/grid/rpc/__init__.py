"""Floor 5: gRPC. The only place that knows both the protobuf services and the engine."""
