package e2e

import (
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// What the server counts is shown as Prometheus reads it and would have it named, and on
// an address of its own.
func TestMetrics(t *testing.T) {
	private := freeAddr(t)
	chat := startChat(t, "-metrics", private)
	ada := chat.open()
	ada.say("hello")

	resp, err := http.Get("http://" + private + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	problems, err := promlint.New(resp.Body).Lint()
	if err != nil {
		t.Error(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Whoever asks is answered while the server runs, and refused when it does not.
func TestHealth(t *testing.T) {
	chat := startChat(t)
	healthy := func() bool {
		resp, err := http.Get("http://" + chat.addr + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	if !healthy() {
		t.Error("runs, and is not healthy")
	}
	chat.stop()
	if healthy() {
		t.Error("is healthy, and does not run")
	}
	chat.startAgain()
	if !healthy() {
		t.Error("runs again, and is not healthy")
	}
}
