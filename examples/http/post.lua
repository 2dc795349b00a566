-- For wrk: one flower in each request.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"sepalLength": 5.9, "sepalWidth": 3, "petalLength": 4.2, "petalWidth": 1.5}'
