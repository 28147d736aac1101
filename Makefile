# the binary, ./chat
build:
	go build

run:
	go run .

test:
	go test ./...

# what a change should pass while it is being made: Go alone, under two minutes
check:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt would change: $$unformatted"; exit 1; }
	go mod tidy -diff
	go vet ./...
	GOOS=windows go build ./...
	GOOS=darwin go build ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	go test -race ./...

# what a change must pass: also fuzzing, the page in Chromium, nginx, and a minute of the soak
check-all:
	.ci/run

# this server and the gorilla example under the same loads: some minutes, on a quiet machine
bench:
	go run ./bench

# the page in a real Chromium and behind a real nginx, and many servers on real nodes of NATS
e2e:
	cd e2e && go test -parallel 8 ./...

# three NATS nodes and three servers that share their rooms over them, on this machine, until Ctrl-C
cluster:
	cd e2e && go run ./cluster

# hundreds of clients, well-behaved and not, and restarts: half an hour
soak:
	cd e2e && go run ./soak -minutes 30

.PHONY: build run test check check-all bench e2e cluster soak
