// Package metrics counts what the server does, over all rooms and since it was started,
// and writes the counts in the Prometheus text format, version 0.0.4.
package metrics

import (
	"bytes"
	"fmt"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync/atomic"
	"time"

	"chat/internal/protocol"
)

// ContentType is the media type of what Text returns.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Counters are what the server counts. Any goroutine may add to them. The program never
// decides anything by them.
type Counters struct {
	Accepted   [protocol.NumProtocols]atomic.Int64 // connections
	Ended      [protocol.NumProtocols]atomic.Int64 // of those accepted
	Messages   atomic.Int64                        // taken by a room, repeats aside
	Batches    atomic.Int64                        // of messages
	Deliveries atomic.Int64                        // messages put into a client's queue as they were said, once for each client
	Fanout     Histogram                           // from taking a batch's first message until every queue had the batch
	Drops      [protocol.NumCauses]atomic.Int64    // connections that the server ended
	Refusals   [protocol.NumRefusals]atomic.Int64  // requests for a connection or for the history

	HistoryLines  atomic.Int64 // written to files, those of a rewritten file again
	HistoryBytes  atomic.Int64 // of these
	HistoryErrors atomic.Int64 // of reading, writing or syncing a file
	HistoryWrite  Histogram    // of a batch or a whole file
	HistorySync   Histogram    // of a file that was appended to

	NATSPublish    Histogram    // of a turn, until the stream had it
	NATSRepeated   atomic.Int64 // attempts to publish a turn, after the first
	NATSFetched    atomic.Int64 // turns that did not come by themselves
	NATSBreaks     atomic.Int64 // turns that came and were not the next
	NATSUnreadable atomic.Int64 // turns and lines that could not be read

	Throttled atomic.Int64 // connections that wait now because they, or their addresses, send too much

	started time.Time
}

// New returns counters that begin now.
func New() *Counters { return &Counters{started: time.Now()} }

// A Histogram counts durations by how long they are. Its zero value is empty.
type Histogram struct {
	counts [len(bounds) + 1]atomic.Int64 // up to each bound and above the one before; the last has no bound
	sum    atomic.Int64                  // of all, in nanoseconds
}

// bounds are the upper bounds of a histogram's buckets.
var bounds = [...]time.Duration{
	100 * time.Microsecond, 300 * time.Microsecond, time.Millisecond, 3 * time.Millisecond,
	10 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond, time.Second,
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	i, _ := slices.BinarySearch(bounds[:], d)
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

// Gauges are what others count, as it is now.
type Gauges struct {
	Rooms              int
	HTTPConnections    int   // that are no client's
	ThrottledAddresses int   // that have connections which wait
	UndeliveredBytes   int64 // of batches that are queued and not written to all their clients
	NATSConnected      bool
	NATSTurns          int64 // that are published and not acknowledged
}

// Text returns everything in the Prometheus text format.
func (c *Counters) Text(g Gauges) []byte {
	var t text
	t.family("chat_build_info", "gauge", "What was built; the value is always 1.")
	b := ReadBuild()
	fmt.Fprintf(&t, "chat_build_info{version=%q,revision=%q,goversion=%q} 1\n", b.Version, b.Revision, b.GoVersion)

	t.family("chat_connections", "gauge", "Connections now, by protocol.")
	for p := range protocol.NumProtocols {
		ended := c.Ended[p].Load() // before those accepted, so that the difference is never negative
		fmt.Fprintf(&t, "chat_connections{protocol=%q} %d\n", p, c.Accepted[p].Load()-ended)
	}
	t.family("chat_connections_total", "counter", "Connections accepted, by protocol.")
	for p := range protocol.NumProtocols {
		fmt.Fprintf(&t, "chat_connections_total{protocol=%q} %d\n", p, c.Accepted[p].Load())
	}
	t.single("chat_http_connections", "gauge", "Connections now that are not, or not yet, a client's.", g.HTTPConnections)
	t.single("chat_rooms", "gauge", "Rooms now, the lobby among them.", g.Rooms)
	t.single("chat_throttled_connections", "gauge", "Connections that the server does not read from now, because they or their addresses send too much.", c.Throttled.Load())
	t.single("chat_throttled_addresses", "gauge", "Addresses with a connection that waits until the address may send more.", g.ThrottledAddresses)
	t.single("chat_messages_total", "counter", "Messages taken by a room.", c.Messages.Load())
	t.single("chat_batches_total", "counter", "Batches in which messages were sent.", c.Batches.Load())
	t.single("chat_deliveries_total", "counter", "Messages queued for a connection as they were said, once for each connection.", c.Deliveries.Load())
	t.single("chat_undelivered_bytes", "gauge", "Memory of batches that are queued and not yet written to all their clients.", g.UndeliveredBytes)
	t.family("chat_drops_total", "counter", "Connections that the server ended, by reason, a stop aside.")
	for cause := protocol.NotDropped + 1; cause < protocol.NumCauses; cause++ {
		fmt.Fprintf(&t, "chat_drops_total{reason=%q} %d\n", cause, c.Drops[cause].Load())
	}
	t.family("chat_refusals_total", "counter", "Requests for a connection or for the history that the server refused, by reason.")
	for r := range protocol.NumRefusals {
		fmt.Fprintf(&t, "chat_refusals_total{reason=%q} %d\n", r, c.Refusals[r].Load())
	}
	t.histogram("chat_fanout_seconds", "From taking a batch's first message until every connection's queue had it.", &c.Fanout)

	t.single("chat_history_lines_total", "counter", "Messages written to files with -history, again when a file is rewritten.", c.HistoryLines.Load())
	t.single("chat_history_bytes_total", "counter", "Bytes written to files with -history.", c.HistoryBytes.Load())
	t.single("chat_history_errors_total", "counter", "Failures to read, write or sync a file with -history, or to do it in time.", c.HistoryErrors.Load())
	t.histogram("chat_history_write_seconds", "To write a batch to a file, or to rewrite a file.", &c.HistoryWrite)
	t.histogram("chat_history_sync_seconds", "To sync a file that was appended to.", &c.HistorySync)

	connected := 0
	if g.NATSConnected {
		connected = 1
	}
	t.single("chat_nats_connected", "gauge", "With -nats: 1 while there is a connection to NATS.", connected)
	t.single("chat_nats_turns_under_way", "gauge", "With -nats: turns that are published and not acknowledged.", g.NATSTurns)
	t.single("chat_nats_repeated_total", "counter", "With -nats: attempts to publish a turn, after the first.", c.NATSRepeated.Load())
	t.single("chat_nats_fetched_total", "counter", "With -nats: turns that did not come by themselves.", c.NATSFetched.Load())
	t.single("chat_nats_breaks_total", "counter", "With -nats: turns that came and were not the next.", c.NATSBreaks.Load())
	t.single("chat_nats_unreadable_total", "counter", "With -nats: turns and lines in the stream that could not be read.", c.NATSUnreadable.Load())
	t.histogram("chat_nats_publish_seconds", "With -nats: to publish a turn, until the stream had it.", &c.NATSPublish)

	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	t.single("go_goroutines", "gauge", "Goroutines now.", runtime.NumGoroutine())
	t.single("go_memstats_alloc_bytes", "gauge", "Memory that is in use on the heap, or was and is not yet collected.", heap[0].Value.Uint64())
	t.single("process_start_time_seconds", "gauge", "When the server was started, in seconds since 1970.", c.started.Unix())
	return t.Bytes()
}

// text is a page of metrics as it is written.
type text struct{ bytes.Buffer }

// family begins the samples of one name.
func (t *text) family(name, kind, help string) {
	fmt.Fprintf(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// single writes a family of one sample.
func (t *text) single(name, kind, help string, value any) {
	t.family(name, kind, help)
	fmt.Fprintf(t, "%s %v\n", name, value)
}

// histogram writes a histogram, whose buckets count all up to their bound.
func (t *text) histogram(name, help string, h *Histogram) {
	t.family(name, "histogram", help)
	var count int64
	for i, bound := range bounds {
		count += h.counts[i].Load()
		fmt.Fprintf(t, "%s_bucket{le=\"%v\"} %d\n", name, bound.Seconds(), count)
	}
	count += h.counts[len(bounds)].Load()
	fmt.Fprintf(t, "%s_bucket{le=\"+Inf\"} %d\n", name, count)
	fmt.Fprintf(t, "%s_sum %v\n", name, time.Duration(h.sum.Load()).Seconds())
	fmt.Fprintf(t, "%s_count %d\n", name, count)
}
