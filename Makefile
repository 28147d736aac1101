run:
	go run .

test:
	go test ./...

# this server and the gorilla example under the same loads: some minutes, on a quiet machine
bench:
	go run ./bench

# what every change must pass
check:
	.ci/run

.PHONY: run test bench check
