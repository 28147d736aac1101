package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// metrics returns what is shown to those who look after the chat.
func (c *chat) metrics() string {
	synctest.Wait()
	w := httptest.NewRecorder()
	c.serveMetrics(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// wantMetrics fails the test unless these samples are shown.
func (c *chat) wantMetrics(samples ...string) {
	c.t.Helper()
	shown := c.metrics()
	for _, sample := range samples {
		if !strings.Contains(shown, "\n"+sample+"\n") {
			c.t.Errorf("want %s in\n%s", sample, shown)
		}
	}
}

func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("Ada")
		chat.join("Bob")
		chat.upgradeTo("/ws", subprotocol)
		chat.upgradeTo("/ws?room=team", "")
		chat.upgrade().send(masked(fin|closeFrame, ""))
		time.Sleep(lingerWait)
		for range 5 {
			ada.say("hello")
			ada.take()
		}
		chat.wantMetrics(
			`chat_connections{wire="classic"} 3`,
			`chat_connections{wire="chat.v1"} 1`,
			`chat_connections_total{wire="classic"} 4`,
			`chat_connections_total{wire="chat.v1"} 1`,
			`chat_rooms 2`,
			`chat_messages_total 5`,
			`chat_batches_total 5`,
			`chat_deliveries_total 15`,
			`chat_fanout_seconds_bucket{le="0.0001"} 5`,
			`chat_fanout_seconds_bucket{le="+Inf"} 5`,
			`chat_fanout_seconds_sum 0`,
			`chat_fanout_seconds_count 5`,
			`process_start_time_seconds 946684800`, // when fake time begins
		)
	})
}

// What was said twice for safety's sake was said once, and one batch may hold many.
func TestMetricsOfRepeatsAndBatches(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.upgradeTo("/ws", subprotocol)
		said := masked(fin|text, `{"text":"hello","ref":"1"}`)
		ada.send(said + said)
		chat.wantMetrics(`chat_messages_total 1`, `chat_deliveries_total 1`)
		for i := range 20 {
			ada.send(masked(fin|text, fmt.Sprintf(`{"text":"line %d"}`, i)))
		}
		time.Sleep(time.Second)
		chat.wantMetrics(`chat_messages_total 21`, `chat_deliveries_total 21`)
	})
}

// A histogram's buckets hold what is up to their bound.
func TestHistogram(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		for _, d := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, 2 * time.Second} {
			chat.counters.fanout.add(d)
		}
		chat.wantMetrics(
			`chat_fanout_seconds_bucket{le="0.0003"} 1`,
			`chat_fanout_seconds_bucket{le="0.001"} 2`,
			`chat_fanout_seconds_bucket{le="0.003"} 3`,
			`chat_fanout_seconds_bucket{le="1"} 3`,
			`chat_fanout_seconds_bucket{le="+Inf"} 4`,
			`chat_fanout_seconds_sum 2.002000001`,
		)
	})
}

// ways are all in which the server lets somebody go, or does not let them in.
var ways = []struct {
	family, reason string
	happen         func(*chat)
}{
	{"drops", "not text", func(c *chat) { c.upgrade().send(masked(fin|binaryData, "")) }},
	{"drops", "not UTF-8", func(c *chat) { c.upgrade().send(masked(fin|text, "\xff")) }},
	{"drops", "not JSON", func(c *chat) { c.upgradeTo("/ws", subprotocol).send(masked(fin|text, "hello")) }},
	{"drops", "too long", func(c *chat) { c.upgrade().send(masked(fin|text, strings.Repeat("x", maxText+1))) }},
	{"drops", "protocol", func(c *chat) { c.upgrade().send(masked(fin|continuation, "")) }},
	{"drops", "half said", func(c *chat) { c.upgrade().send(masked(text, "I was going to s")); time.Sleep(pongWait) }},
	{"drops", "silent", func(c *chat) { c.join("").freeze(); time.Sleep(pongWait) }},
	{"drops", "stuck", func(c *chat) {
		ada := c.join("")
		c.network.window = 1 << 10
		c.upgrade()
		ada.say(strings.Repeat("x", maxText))
		time.Sleep(writeWait + time.Second)
	}},
	{"drops", "too slow", func(c *chat) {
		ada := c.join("")
		c.upgrade()
		for range 300 {
			ada.say(strings.Repeat("x", maxText))
			synctest.Wait()
		}
		time.Sleep(closeWait)
	}},
	{"refusals", "room name", func(c *chat) { c.ask(strings.Replace(handshake, "/ws", "/ws?room=a/b", 1)) }},
	{"refusals", "no WebSocket", func(c *chat) { c.ask(plainGet) }},
	{"refusals", "handshake", func(c *chat) { c.ask(badKey) }},
	{"refusals", "origin", func(c *chat) {
		c.ask(strings.Replace(handshake, "\r\n\r\n", "\r\nOrigin: http://evil.test\r\n\r\n", 1))
	}},
	{"refusals", "full", func(c *chat) {
		for len(c.slots) < cap(c.slots) {
			c.slots <- struct{}{}
		}
		c.ask(handshake)
		for range cap(c.slots) {
			<-c.slots
		}
	}},
	{"refusals", "rooms", func(c *chat) {
		for i := range maxRooms - 1 {
			c.upgradeTo(fmt.Sprint("/ws?room=room", i), "")
		}
		c.ask(strings.Replace(handshake, "/ws", "/ws?room=more", 1))
	}},
}

// Each shows under its own reason, and under no other.
func TestReasonsAreCounted(t *testing.T) {
	counted := regexp.MustCompile(`(?m)^chat_(drops|refusals)_total.* [1-9]\d*$`)
	var seen []string
	for _, way := range ways {
		seen = append(seen, way.reason)
		t.Run(way.reason, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				chat := startChat(t, unlimited)
				way.happen(chat)
				time.Sleep(lingerWait)
				want := fmt.Sprintf("chat_%s_total{reason=%q} 1", way.family, way.reason)
				if got := counted.FindAllString(chat.metrics(), -1); !slices.Equal(got, []string{want}) {
					t.Errorf("%q, want %s alone", got, want)
				}
			})
		})
	}
	slices.Sort(seen)
	if all := slices.Sorted(slices.Values(slices.Concat(dropReasons, refusalReasons))); !slices.Equal(seen, all) {
		t.Errorf("tried %q of %q", seen, all)
	}
}

// The counters have a listener of their own, and that has nothing else.
func TestMetricsArePrivate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		public, private := newNetwork(), newNetwork()
		stopped := make(chan error)
		s := newServer(nil, 0, 10)
		go func() { stopped <- s.serve(ctx, public, private) }()
		for _, request := range []struct {
			network *network
			path    string
			status  int
		}{
			{public, "/metrics", 404},
			{public, "/healthz", 200},
			{private, "/metrics", 200},
			{private, "/ws", 404},
			{private, "/", 404},
		} {
			there := &chat{t: t, network: request.network}
			resp, _ := there.ask("GET " + request.path + " HTTP/1.1\r\nHost: chat.test\r\n\r\n")
			if resp.StatusCode != request.status {
				t.Errorf("%s: %s, want %d", request.path, resp.Status, request.status)
			}
		}
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if public.open()+private.open() != 0 {
			t.Error("connections are left")
		}
	})
}

func TestHealth(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chat := startChat(t)
		resp, body := chat.ask("GET /healthz HTTP/1.1\r\nHost: chat.test\r\n\r\n")
		if resp.StatusCode != http.StatusOK || body != "ok" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %q", resp.Status, body)
		}
	})
}

// Behind a proxy on this machine the log tells for whom that asks; from anywhere else,
// anyone might have written it.
func TestPeerOf(t *testing.T) {
	for _, request := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"127.0.0.1:5", nil, "127.0.0.1:5"},
		{"127.0.0.1:5", []string{"203.0.113.9"}, `127.0.0.1:5 for "203.0.113.9"`},
		{"[::1]:5", []string{"198.51.100.1, 203.0.113.9"}, `[::1]:5 for "203.0.113.9"`},
		{"[::ffff:127.0.0.1]:5", []string{"198.51.100.1", "2001:db8::9"}, `[::ffff:127.0.0.1]:5 for "2001:db8::9"`},
		{"127.0.0.1:5", []string{"\x1b[31mred\n"}, `127.0.0.1:5 for "\x1b[31mred"`},
		{"127.0.0.1:5", []string{strings.Repeat("9", 5000)}, `127.0.0.1:5 for "` + strings.Repeat("9", 60) + `"`},
		{"203.0.113.7:5", []string{"127.0.0.1"}, "203.0.113.7:5"},
		{"pipe", []string{"127.0.0.1"}, "pipe"},
	} {
		r := &http.Request{RemoteAddr: request.peer, Header: http.Header{"X-Forwarded-For": request.forwarded}}
		if got := peerOf(r); got != request.want {
			t.Errorf("%v: %s", request, got)
		}
	}
}
