package main

import (
	"fmt"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chat/internal/budget"
	"chat/internal/natstest"
	"chat/internal/protocol"
	"chat/internal/queue"
	"chat/internal/wstest"
)

// metrics returns the page of metrics.
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

// The metrics show what happened.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("name=Ada")
		chat.join("name=Bob")
		chat.upgradeTo("", protocol.ChatV1)
		chat.upgradeTo("room=team", protocol.Classic)
		chat.upgrade().sendFrame(wstest.Close, "")
		time.Sleep(lingerWait)
		for range 5 {
			ada.say("hello")
			ada.texts()
		}
		chat.wantMetrics(
			`chat_connections{protocol="classic"} 3`,
			`chat_connections{protocol="chat.v1"} 1`,
			`chat_connections_total{protocol="classic"} 4`,
			`chat_connections_total{protocol="chat.v1"} 1`,
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

// A message that is sent again counts once, and each message of a batch counts.
func TestMetricsOfRepeatsAndBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.upgradeTo("", protocol.ChatV1)
		said := wstest.Masked(wstest.Fin|wstest.Text, `{"text":"hello","ref":"1"}`)
		ada.send(said + said)
		chat.wantMetrics(`chat_messages_total 1`, `chat_deliveries_total 1`)
		for i := range 20 {
			ada.sendFrame(wstest.Text, fmt.Sprintf(`{"text":"line %d"}`, i))
		}
		time.Sleep(time.Second)
		chat.wantMetrics(`chat_messages_total 21`, `chat_deliveries_total 21`)
	})
}

// A message counts as delivered to a client whose queue took it, not to one that is
// disconnected for a full queue.
func TestDeliveriesToASlowConsumerDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHub()
		ada, slow := joinHub(h, protocol.Classic), joinHub(h, protocol.Classic)
		slow.send = queue.New[*batch](0) // takes nothing
		for range 3 {
			h.log.say(message{ada, protocol.ClientMessage{Text: "hello"}})
		}
		h.deliver()
		if n := h.counters.Deliveries.Load(); n != 3 {
			t.Errorf("%d deliveries, want 3", n)
		}
	})
}

// ways are all ways in which the server disconnects a client or refuses a request.
var ways = []struct {
	family, reason string
	happen         func(*chat)
}{
	{"drops", "unsupported_data", func(c *chat) { c.upgrade().sendFrame(wstest.Binary, "") }},
	{"drops", "invalid_utf8", func(c *chat) { c.upgrade().sendFrame(wstest.Text, "\xff") }},
	{"drops", "invalid_json", func(c *chat) { c.upgradeTo("", protocol.ChatV1).sendFrame(wstest.Text, "hello") }},
	{"drops", "message_too_big", func(c *chat) {
		c.upgrade().sendFrame(wstest.Text, strings.Repeat("x", protocol.MaxText+1))
	}},
	{"drops", "protocol_error", func(c *chat) { c.upgrade().sendFrame(wstest.Continuation, "") }},
	{"drops", "incomplete_message", func(c *chat) { c.upgrade().send(wstest.Masked(wstest.Text, "I was going to s")); time.Sleep(pongWait) }},
	{"drops", "idle_timeout", func(c *chat) { c.join("").freeze(); time.Sleep(pongWait) }},
	{"drops", "write_timeout", func(c *chat) {
		ada := c.join("")
		c.network.Window = 1 << 10
		c.upgrade()
		ada.say(strings.Repeat("x", protocol.MaxText))
		time.Sleep(writeWait + time.Second)
	}},
	{"drops", "slow_consumer", func(c *chat) {
		ada := c.join("")
		c.upgrade()
		for range 300 {
			ada.say(strings.Repeat("x", protocol.MaxText))
			synctest.Wait()
		}
		time.Sleep(closeWait)
	}},
	{"refusals", "room_name", func(c *chat) { c.ask(strings.Replace(handshake, "/ws", "/ws?room=a/b", 1)) }},
	{"refusals", "bad_query", func(c *chat) { c.ask(strings.Replace(handshake, "/ws", "/ws?room=%zz", 1)) }},
	{"refusals", "not_websocket", func(c *chat) { c.ask(plainGet) }},
	{"refusals", "bad_handshake", func(c *chat) { c.ask(strings.Replace(handshake, wstest.HandshakeKey, "short", 1)) }},
	{"refusals", "history_limit", func(c *chat) {
		c.budgets = budget.New(time.Second, burst) // enough for one request
		for range 2 {
			c.ask(wstest.PlainGet("chat.test", "/history"))
		}
	}},
	{"refusals", "origin", func(c *chat) {
		c.ask(wstest.WithHeader(handshake, "Origin: http://evil.test"))
	}},
	{"refusals", "server_full", func(c *chat) {
		for len(c.slots) < cap(c.slots) {
			c.slots <- struct{}{}
		}
		c.ask(handshake)
		for range cap(c.slots) {
			<-c.slots
		}
	}},
	{"refusals", "too_many_rooms", func(c *chat) {
		for i := range maxRooms - 1 {
			c.upgradeTo(fmt.Sprint("room=room", i), protocol.Classic)
		}
		c.ask(strings.Replace(handshake, "/ws", "/ws?room=more", 1))
	}},
	{"drops", "log_away", func(c *chat) { c.join(""); c.nats.SetAway(true); time.Sleep(15 * time.Second) }},
	{"drops", "log_replaced", func(c *chat) { c.join(""); c.nats.Delete("CHAT"); time.Sleep(5 * time.Second) }},
	{"refusals", "log_unreachable", func(c *chat) { c.nats.SetAway(true); time.Sleep(15 * time.Second); c.ask(handshake) }},
}

// Each disconnect and each refusal counts under its own reason alone.
func TestReasonsAreCounted(t *testing.T) {
	counted := regexp.MustCompile(`(?m)^chat_(drops|refusals)_total.* [1-9]\d*$`)
	var seen []string
	for _, way := range ways {
		seen = append(seen, way.reason)
		onFakeTime(t, way.reason, func(t *testing.T) {
			options, nats := []func(*server){unlimited}, natstest.New()
			if strings.HasPrefix(way.reason, "log_") {
				options = append(options, sharedOver(nats))
			}
			chat := startChat(t, options...)
			chat.nats = nats
			way.happen(chat)
			time.Sleep(lingerWait)
			want := fmt.Sprintf("chat_%s_total{reason=%q} 1", way.family, way.reason)
			if got := counted.FindAllString(chat.metrics(), -1); !slices.Equal(got, []string{want}) {
				t.Errorf("%q, want %s alone", got, want)
			}
		})
	}
	var all []string
	for c := protocol.NotDropped + 1; c < protocol.NumCauses; c++ {
		all = append(all, c.String())
	}
	for r := range protocol.NumRefusals {
		all = append(all, r.String())
	}
	slices.Sort(seen)
	if slices.Sort(all); !slices.Equal(seen, all) {
		t.Errorf("tried %q of %q", seen, all)
	}
}
