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
	lintMetrics(t, private)
}

// The same with NATS, which the server says when it is out of reach.
func TestMetricsOverNats(t *testing.T) {
	t.Parallel()
	private := freeAddr(t)
	nodes := startNodes(t, 1)
	chat := startShared(t, nodes, "-metrics", private)
	m := chat.join("", "Ada")
	m.say("hello", "")
	m.wantTexts("hello")
	connected := func() bool { return metric(t, private, "chat_nats_connected") == 1 }
	if stored := metric(t, private, "chat_nats_publish_seconds_count"); !connected() || stored != 1 {
		t.Errorf("connected is %v, and %v turns were stored", connected(), stored)
	}
	lintMetrics(t, private)
	nodes.Kill()
	eventually(t, "the server is not connected", func() bool { return !connected() })
	start(t, nodes.Nodes[0])
	eventually(t, "the server is connected", connected)
}

// lintMetrics fails the test unless what an address shows is as Prometheus would have it.
func lintMetrics(t *testing.T, addr string) {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
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
