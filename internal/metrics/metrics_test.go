package metrics

import (
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"chat/internal/protocol"
)

// want fails the test unless these samples are shown.
func want(t *testing.T, c *Counters, samples ...string) {
	t.Helper()
	shown := string(c.Text(Gauges{Rooms: 2, ThrottledAddresses: 3}))
	for _, sample := range samples {
		if !strings.Contains(shown, "\n"+sample+"\n") {
			t.Errorf("want %s in\n%s", sample, shown)
		}
	}
}

// A histogram's buckets hold what is up to their bound.
func TestHistogram(t *testing.T) {
	c := New()
	for _, d := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, 2 * time.Second} {
		c.Fanout.Add(d)
	}
	want(t, c,
		`chat_fanout_seconds_bucket{le="0.0003"} 1`,
		`chat_fanout_seconds_bucket{le="0.001"} 2`,
		`chat_fanout_seconds_bucket{le="0.003"} 3`,
		`chat_fanout_seconds_bucket{le="1"} 3`,
		`chat_fanout_seconds_bucket{le="+Inf"} 4`,
		`chat_fanout_seconds_sum 2.002000001`,
		`chat_fanout_seconds_count 4`,
	)
}

// Every counter has a sample, and those that count nothing show 0, so that the first one
// shows as a rate.
func TestSamples(t *testing.T) {
	c := New()
	c.Accepted[protocol.ChatV1].Add(3)
	c.Ended[protocol.ChatV1].Add(1)
	c.Drops[protocol.SlowConsumer].Add(4)
	c.Refusals[protocol.BadOrigin].Add(5)
	want(t, c,
		`chat_connections{protocol="classic"} 0`,
		`chat_connections{protocol="chat.v1"} 2`,
		`chat_connections_total{protocol="chat.v1"} 3`,
		`chat_rooms 2`,
		`chat_throttled_addresses 3`,
		`chat_messages_total 0`,
		`chat_drops_total{reason="slow_consumer"} 4`,
		`chat_drops_total{reason="incomplete_message"} 0`,
		`chat_refusals_total{reason="origin"} 5`,
		`chat_refusals_total{reason="server_full"} 0`,
	)
	text := string(c.Text(Gauges{}))
	if strings.Count(text, "chat_drops_total{") != int(protocol.NumCauses)-1 {
		t.Errorf("not one sample for each cause:\n%s", text)
	}
	for _, name := range []string{"chat_batches_total", "chat_deliveries_total", "go_goroutines", "go_memstats_alloc_bytes", "process_start_time_seconds"} {
		if !strings.Contains(text, "\n"+name+" ") {
			t.Errorf("no %s in\n%s", name, text)
		}
	}
}

func TestBuild(t *testing.T) {
	b := ReadBuild()
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && b.Version != info.Main.Version {
		t.Errorf("version %q, want %q", b.Version, info.Main.Version)
	}
	if b.Version == "" || !strings.HasPrefix(b.GoVersion, "go1.") || !strings.HasPrefix(b.String(), "chat ") {
		t.Errorf("%+v", b)
	}
	want(t, New(), `chat_build_info{version="`+b.Version+`",revision="`+b.Revision+`",goversion="`+b.GoVersion+`"} 1`)
	for _, b := range []struct {
		build Build
		want  string
	}{
		{Build{"v1.2.3", "", "go1.26"}, "chat v1.2.3, go1.26"},
		{Build{"(devel)", "abc+dirty", "go1.26"}, "chat (devel), revision abc+dirty, go1.26"},
	} {
		if got := b.build.String(); got != b.want {
			t.Errorf("%q, want %q", got, b.want)
		}
	}
}
