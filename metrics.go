package main

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Why the server ended a connection, or let none begin: what the log and these counts
// are sorted by.
var (
	dropReasons    = []string{"half said", "not JSON", "not UTF-8", "not text", "protocol", "silent", "stuck", "too long", "too slow"}
	refusalReasons = []string{"full", "handshake", "no WebSocket", "origin", "room name", "rooms"}
)

// counters are what the server counts, over all rooms and since it was started, for
// whoever looks after it. Anyone may add to them; none is ever decided by.
type counters struct {
	started     time.Time
	connections [numProtocols]atomic.Int64 // let in
	left        [numProtocols]atomic.Int64 // of these
	messages    atomic.Int64               // taken by a hub, repeats aside
	batches     atomic.Int64               // of messages
	deliveries  atomic.Int64               // of messages as they were said: each counts once for each client to whom it was handed
	fanout      histogram                  // from taking a batch's first message until all were handed it
	drops       tally
	refusals    tally
}

func newCounters() *counters {
	return &counters{started: time.Now(), drops: newTally(dropReasons), refusals: newTally(refusalReasons)}
}

// A tally counts by reason. Reasons that never came up count 0, so that a rate of
// the first one shows.
type tally struct {
	mu     sync.Mutex
	counts map[string]int64
}

func newTally(reasons []string) tally {
	counts := make(map[string]int64)
	for _, reason := range reasons {
		counts[reason] = 0
	}
	return tally{counts: counts}
}

func (t *tally) add(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[reason]++
}

// A histogram counts durations by how long they are.
type histogram struct {
	counts [len(bounds) + 1]atomic.Int64 // up to each bound and above the one before; the last is without a bound
	sum    atomic.Int64                  // of all, in nanoseconds
}

var bounds = [...]time.Duration{
	100 * time.Microsecond, 300 * time.Microsecond, time.Millisecond, 3 * time.Millisecond,
	10 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond, time.Second,
}

func (h *histogram) add(d time.Duration) {
	i, _ := slices.BinarySearch(bounds[:], d)
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

// serveMetrics shows the counters in the Prometheus text format, version 0.0.4.
func (s *server) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	family := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	single := func(name, kind, help string, value any) {
		family(name, kind, help)
		fmt.Fprintf(&b, "%s %v\n", name, value)
	}
	byReason := func(name, help string, t *tally) {
		family(name, "counter", help)
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, reason := range slices.Sorted(maps.Keys(t.counts)) {
			fmt.Fprintf(&b, "%s{reason=%q} %d\n", name, reason, t.counts[reason])
		}
	}

	c := s.counters
	family("chat_connections", "gauge", "Connections now, by wire.")
	for w, name := range protocolNames {
		left := c.left[w].Load() // before those that came, so that there are never fewer than none
		fmt.Fprintf(&b, "chat_connections{wire=%q} %d\n", name, c.connections[w].Load()-left)
	}
	family("chat_connections_total", "counter", "Connections let in, by wire.")
	for w, name := range protocolNames {
		fmt.Fprintf(&b, "chat_connections_total{wire=%q} %d\n", name, c.connections[w].Load())
	}
	single("chat_rooms", "gauge", "Rooms now, the lobby among them.", s.rooms.count())
	single("chat_messages_total", "counter", "Messages said.", c.messages.Load())
	single("chat_batches_total", "counter", "Batches in which they were handed out.", c.batches.Load())
	single("chat_deliveries_total", "counter", "Messages handed out as they were said, once for each connection.", c.deliveries.Load())
	byReason("chat_drops_total", "Connections that the server ended, by reason, a stop aside.", &c.drops)
	byReason("chat_refusals_total", "Requests for a connection that the server refused, by reason.", &c.refusals)

	family("chat_fanout_seconds", "histogram", "From taking a batch's first message until every connection's queue had it.")
	var count int64
	for i, bound := range bounds {
		count += c.fanout.counts[i].Load()
		fmt.Fprintf(&b, "chat_fanout_seconds_bucket{le=\"%v\"} %d\n", bound.Seconds(), count)
	}
	count += c.fanout.counts[len(bounds)].Load()
	fmt.Fprintf(&b, "chat_fanout_seconds_bucket{le=\"+Inf\"} %d\n", count)
	fmt.Fprintf(&b, "chat_fanout_seconds_sum %v\n", time.Duration(c.fanout.sum.Load()).Seconds())
	fmt.Fprintf(&b, "chat_fanout_seconds_count %d\n", count)

	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	single("go_goroutines", "gauge", "Goroutines now.", runtime.NumGoroutine())
	single("go_memstats_alloc_bytes", "gauge", "Memory that is in use on the heap, or was and is not yet collected.", heap[0].Value.Uint64())
	single("process_start_time_seconds", "gauge", "When the server was started, in seconds since 1970.", c.started.Unix())

	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Write(b.Bytes()) // an error says that nobody reads it
}
