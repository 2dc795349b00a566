// bench.proto's Predict, for Thrift.
struct PredictRequest {
  1: double value
}

struct PredictReply {
  1: double result
}

service Predictor {
  PredictReply predict(1: PredictRequest request)
}
