run:
	go run .

test:
	go test ./...

# what every change must pass
check:
	.ci/run

.PHONY: run test check
