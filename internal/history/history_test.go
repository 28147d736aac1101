package history

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"weak"

	"chat/internal/protocol"
)

var begin = time.UnixMicro(1_000_000_000_000_000)

// add keeps messages of one text and returns the ids.
func add(h *History, n int, text string) (ids []int64) {
	for range n {
		ids = append(ids, h.Add(protocol.Message{Text: text}, begin).ID)
	}
	return ids
}

// Ids increase with every message and with time, so that they increase over a restart,
// too, and never go back with the clock.
func TestIDs(t *testing.T) {
	h := New(begin, 0)
	first := h.LastID()
	if first != begin.UnixMicro() || first >= 1<<53 {
		t.Errorf("ids begin at %d", first)
	}
	for i, step := range []struct {
		now  time.Time
		want int64
	}{
		{begin, first + 1},
		{begin, first + 2},
		{begin.Add(time.Second), first + 1_000_000},
		{begin.Add(-time.Hour), first + 1_000_001},
	} {
		e := h.Add(protocol.Message{Text: "hello"}, step.now)
		if e.ID != step.want || h.LastID() != e.ID || !strings.Contains(string(e.Payload), fmt.Sprintf(`"id":%d,`, e.ID)) {
			t.Errorf("message %d has id %d, want %d: %s", i, e.ID, step.want, e.Payload)
		}
	}
}

// A history that begins after another one has larger ids, though the clock was set back,
// and tells those who know the other that they may have missed something.
func TestIDsAfterAnotherHistory(t *testing.T) {
	old := New(begin, 0)
	last := add(old, 1, "hello")[0]
	h := New(begin.Add(-time.Hour), last)
	if h.LastID() <= last {
		t.Errorf("begins at %d, after %d", h.LastID(), last)
	}
	if id := add(h, 1, "hello")[0]; id <= last {
		t.Errorf("goes on with %d, after %d", id, last)
	}
	if entries, missed := h.Since(Position(last)); len(entries) != 1 || !missed {
		t.Errorf("%d messages, missed %v", len(entries), missed)
	}
}

// A history keeps MaxMessages messages and not one more.
func TestMaxMessages(t *testing.T) {
	h := New(begin, 0)
	ids := add(h, MaxMessages, "x")
	if entries, missed := h.Since(Position(begin.UnixMicro())); len(entries) != MaxMessages || missed {
		t.Errorf("%d messages, missed %v", len(entries), missed)
	}
	add(h, 1, "x")
	if entries, missed := h.Since(Position(ids[0])); len(entries) != MaxMessages || missed {
		t.Errorf("after the first: %d messages, missed %v", len(entries), missed)
	}
	if entries, missed := h.Since(Position(ids[0] - 1)); len(entries) != MaxMessages || !missed {
		t.Errorf("from the beginning: %d messages, missed %v", len(entries), missed)
	}
}

// A history keeps MaxBytes bytes and not one more.
func TestMaxBytes(t *testing.T) {
	h := New(begin, 0)
	overhead := len(h.Add(protocol.Message{Text: "x"}, begin).Payload) - 1
	h = New(begin, 0)
	const n = 40 // of messages that make MaxBytes exactly
	for i := range n {
		size := MaxBytes / n
		if i == 0 {
			size += MaxBytes % n
		}
		add(h, 1, strings.Repeat("x", size-overhead))
	}
	if entries, _ := h.Since(0); len(entries) != n || h.bytes != MaxBytes {
		t.Errorf("%d of %d messages, %d bytes", len(entries), n, h.bytes)
	}
	add(h, 1, "x")
	if entries, _ := h.Since(0); len(entries) != n || h.bytes > MaxBytes {
		t.Errorf("%d messages, %d bytes", len(entries), h.bytes)
	}
}

// A newcomer gets the last messages; a client that comes back all after its position.
func TestSince(t *testing.T) {
	h := New(begin, 0)
	start := h.LastID()
	ids := add(h, 120, "x")
	last := ids[119]
	for _, resume := range []struct {
		after  string
		n      int
		missed bool
	}{
		{"", newcomerMessages, false},
		{fmt.Sprint(last), 0, false},
		{fmt.Sprint(last - 1), 1, false},
		{fmt.Sprint(ids[19]), 100, false},
		{fmt.Sprint(start), 120, false},
		{fmt.Sprint(start - 1), 120, true}, // of a server before this one
		{"0", 120, true},
		{fmt.Sprint(last + 1), newcomerMessages, true}, // of a server whose clock was ahead
		{"-1", newcomerMessages, true},
		{"9223372036854775807", newcomerMessages, true},
		{"99999999999999999999999", newcomerMessages, true},
		{"yesterday", newcomerMessages, true},
	} {
		entries, missed := h.Since(ParsePosition(resume.after))
		if len(entries) != resume.n || missed != resume.missed {
			t.Errorf("after %q: %d messages, missed %v, want %+v", resume.after, len(entries), missed, resume)
		}
		if n := len(entries); n > 0 && entries[n-1].ID != last {
			t.Errorf("after %q: the last is %d, want %d", resume.after, entries[n-1].ID, last)
		}
	}
}

// A message is found by its sender's id for it, while it is kept.
func TestFind(t *testing.T) {
	h := New(begin, 0)
	e := h.Add(protocol.Message{UserID: "ada", Text: "hello", ClientMsgID: "1"}, begin)
	h.Add(protocol.Message{UserID: "ada", Text: "no id"}, begin)
	if h.Find("ada", "1") != e || h.Find("bob", "1") != nil || h.Find("ada", "2") != nil || h.Find("ada", "") != nil {
		t.Error("finds what it should not, or not what it should")
	}
	add(h, MaxMessages, "more")
	if h.Find("ada", "1") != nil || len(h.byKey) != 0 {
		t.Error("finds a message that is gone")
	}
}

// A history that is restored from messages goes on as the one that they were kept in: ids,
// what is found, and who is told that something is missing.
func TestRestore(t *testing.T) {
	old := New(begin, 0)
	var messages []protocol.Message
	for i := range MaxMessages {
		e := old.Add(protocol.Message{UserID: "ada", Name: "Ada", Text: "hello", ClientMsgID: fmt.Sprint(i)}, begin.Add(time.Second))
		m, err := protocol.DecodeMessage(e.Payload)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	old.Add(protocol.Message{UserID: "ada", Text: "hello"}, begin.Add(time.Second))
	m, _ := protocol.DecodeMessage(old.entries[MaxMessages-1].Payload)
	messages = append(messages, m)

	kept, gone := old.Kept()
	h := Restore(messages)
	again, goneAgain := h.Kept()
	if h.LastGone().ID != messages[0].ID || old.LastGone().ID != messages[0].ID {
		t.Errorf("the last that is gone is %d and %d", h.LastGone().ID, old.LastGone().ID)
	}
	if len(again) != len(kept) || goneAgain != gone || h.LastID() != old.LastID() || h.SeveralSpoke() {
		t.Fatalf("%d messages up to %d, gone %d; want %d, %d, %d", len(again), h.LastID(), goneAgain, len(kept), old.LastID(), gone)
	}
	for i := range kept {
		if kept[i].ID != again[i].ID || string(kept[i].Payload) != string(again[i].Payload) {
			t.Fatalf("%s became %s", kept[i].Payload, again[i].Payload)
		}
	}
	if e := h.Find("ada", "17"); e == nil || e.ID != old.Find("ada", "17").ID {
		t.Error("a message that is sent again is not found")
	}
	if id := h.Add(protocol.Message{Text: "x"}, begin.Add(-time.Hour)).ID; id != old.LastID()+1 { // the clock was set back
		t.Errorf("goes on with %d after %d", id, old.LastID())
	}
	h = Restore(messages[1:])
	if _, missed := h.Since(Position(messages[1].ID - 1)); missed {
		t.Error("a client that has all up to the first one is told that it missed something")
	}
	if _, missed := h.Since(Position(messages[1].ID - 2)); !missed {
		t.Error("a client that may have missed something is not told")
	}
}

// What Since returned stays as it is while messages come and go.
func TestEntriesStay(t *testing.T) {
	h := New(begin, 0)
	ids := add(h, 10, "x")
	entries, _ := h.Since(0)
	add(h, 2*MaxMessages, "y")
	for i, e := range entries {
		if e.ID != ids[i] {
			t.Fatalf("entry %d has become %d", ids[i], e.ID)
		}
	}
}

func TestSeveralSpoke(t *testing.T) {
	h := New(begin, 0)
	for _, step := range []struct {
		userID string
		shared bool
	}{{"ada", false}, {"ada", false}, {"bob", true}, {"ada", true}} {
		h.Add(protocol.Message{UserID: step.userID, Text: "x"}, begin)
		if h.SeveralSpoke() != step.shared {
			t.Errorf("after %s: %v", step.userID, h.SeveralSpoke())
		}
	}
}

// Messages that are no longer kept do not stay in memory for long.
func TestEvictedMessagesAreForgotten(t *testing.T) {
	h := New(begin, 0)
	var all []weak.Pointer[Entry]
	for _, size := range []int{1, 4000, 1, 4000} {
		for range 2 * MaxMessages {
			all = append(all, weak.Make(h.Add(protocol.Message{Text: strings.Repeat("x", size)}, begin)))
		}
		runtime.GC()
		bytes := 0
		for _, e := range all {
			if e := e.Value(); e != nil {
				bytes += len(e.Payload)
			}
		}
		if bytes > MaxBytes*3/2 {
			t.Errorf("after messages of %d bytes, %d bytes are in memory, %d of them kept", size, bytes, h.bytes)
		}
	}
	runtime.KeepAlive(h)
}

func TestBefore(t *testing.T) {
	h := New(begin, 0)
	ids := add(h, 5, "x")
	kept, _ := h.Kept()
	for _, ask := range []struct {
		before int64
		most   int
		want   []int64
	}{
		{math.MaxInt64, 9, ids},
		{math.MaxInt64, 2, ids[3:]},
		{ids[4] + 1, 5, ids},
		{ids[4], 5, ids[:4]},
		{ids[3], 2, ids[1:3]},
		{ids[1], 2, ids[:1]},
		{ids[0], 2, nil},
		{0, 2, nil},
	} {
		var got []int64
		for _, e := range Before(kept, ask.before, ask.most) {
			got = append(got, e.ID)
		}
		if !slices.Equal(got, ask.want) {
			t.Errorf("at most %d before %d: %d, want %d", ask.most, ask.before, got, ask.want)
		}
	}
	if got := Before(nil, 7, 2); len(got) != 0 {
		t.Errorf("%d of none", len(got))
	}
}
