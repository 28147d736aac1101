run:
	go run .

test:
	go test ./...

# this server and the gorilla example under the same loads: some minutes, on a quiet machine
bench:
	go run ./bench

# the page, in a real Chromium and behind a real nginx
e2e:
	cd e2e && go test ./...

# hundreds of clients, well-behaved and not, and restarts: half an hour
soak:
	cd e2e && go run ./soak -minutes 30

# what every change must pass
check:
	.ci/run

.PHONY: run test bench e2e soak check
