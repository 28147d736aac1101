package main

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"chat/internal/protocol"
)

// What a user received on classic, without ids, is compared with what others received on chat.v1.
func TestCheckClassic(t *testing.T) {
	// A line was sent at a time, which is its id, or received by then.
	type line struct {
		text string
		at   int64
	}
	order := []line{{"a", 10}, {"b", 20}, {"c", 30}, {"d", 40}, {"b", 50}, {"x", 60}} // as received on chat.v1
	for _, test := range []struct {
		what     string
		begin    int64
		received []line
		end      int64
		faults   int
	}{
		{"all", 5, []line{{"a", 11}, {"b", 21}, {"c", 31}, {"d", 41}, {"b", 51}, {"x", 61}}, 0, 0},
		{"some in the middle", 25, []line{{"c", 31}, {"d", 41}, {"b", 51}}, 0, 0},
		{"the second of two equal ones first", 45, []line{{"b", 51}, {"x", 61}}, 0, 0},
		{"not c", 5, []line{{"a", 11}, {"b", 21}, {"d", 41}}, 0, 1},
		{"c twice", 5, []line{{"b", 21}, {"c", 31}, {"c", 32}, {"d", 41}}, 0, 1},
		{"c too late", 5, []line{{"b", 21}, {"d", 41}, {"c", 42}}, 0, 2},
		{"x, which the others received when it was resent", 25, []line{{"c", 31}, {"x", 35}}, 0, 0},
		{"y, which the others did not, before they came", 0, []line{{"y", 5}, {"a", 11}}, 0, 0},
		{"y, which the others did not, while they were there", 5, []line{{"a", 11}, {"b", 21}, {"y", 22}, {"c", 31}}, 0, 1},
		{"all until the server stopped", 35, []line{{"d", 41}, {"b", 51}, {"x", 61}}, 65, 0},
		{"not the last before the server stopped", 35, []line{{"d", 41}, {"b", 51}}, 65, 1},
		{"nothing", 5, nil, 65, 0},
	} {
		r, report := newRoom("test"), newReport()
		other := &span{protocol: protocol.ChatV1, user: "other", begin: 9}
		for _, l := range order {
			r.messages[l.at] = &message{id: l.at, classic: hash(l.text), text: l.text + " 1"}
			other.ids = append(other.ids, l.at)
		}
		r.messages[50].text = "b 2" // else it is a duplicate
		s := &span{user: "u", begin: test.begin, end: test.end}
		for _, l := range test.received {
			s.classic = append(s.classic, receipt{hash(l.text), l.at, l.at})
		}
		r.spans = []*span{other, s}
		r.check(report, nil, false)
		if got := append(report.faults["gap"], report.faults["double"]...); len(got) != test.faults {
			t.Errorf("received %s: %d faults, want %d: %q", test.what, len(got), test.faults, got)
		}
	}
}

// A server may say that messages are missing where somebody has received such, or it keeps as many
// as it may.
func TestCheckMissed(t *testing.T) {
	for _, test := range []struct {
		what                 string
		missed, begin, known int64
		ids                  []int64
		faults               int
	}{
		{"others have received some", 10, 20, 22, []int64{21, 22}, 0},
		{"nobody has", 20, 20, 22, []int64{21, 22}, 1},
		{"nobody has, and nothing is kept", 22, 30, 30, nil, 1},
		{"nobody has, and nothing is kept, but something is said", 22, 30, 30, []int64{1001}, 1},
		{"nobody has, and as many as can be are kept", 22, 1000, 1500, ids(1001, 1500), 0},
		{"nobody has, and one less is kept", 1001, 1001, 1500, ids(1002, 1500), 1},
		{"nobody has, and some of what is kept was received", 1001, 1001, 1500, ids(1002, 1499), 0},
		{"nobody has, and as much as can be is kept", 22, 2000, 2010, ids(2001, 2010), 0},
	} {
		r, report := newRoom("test"), newReport()
		for _, id := range slices.Concat(ids(11, 22), ids(1001, 1500), ids(2001, 2010)) {
			r.messages[id] = &message{id: id, text: fmt.Sprint(id), size: 100}
			if id > 2000 {
				r.messages[id].size = 12_000
			}
		}
		r.spans = []*span{{protocol: protocol.ChatV1, user: "u", missed: test.missed, begin: test.begin, known: test.known, ids: test.ids}}
		r.check(report, nil, false)
		if got := slices.Concat(report.faults["other"], report.faults["gap"]); len(got) != test.faults {
			t.Errorf("%s: %d faults, want %d: %q", test.what, len(got), test.faults, got)
		}
	}
}

// A line on classic, the first of its connection, was sent before, and again when the servers no
// longer knew it.
func TestCheckClassicSentAgainTooLate(t *testing.T) {
	r, report := newRoom("test"), newReport()
	for i := range int64(dedupTurns + 10) {
		text := fmt.Sprint("text ", i)
		if i == 0 || i == dedupTurns+5 {
			text = "u1 says 1 ."
		}
		r.messages[(i+1)*1000] = &message{id: (i + 1) * 1000, first: i, classic: hash(text), text: text}
	}
	s := &span{user: "u"}
	for i := dedupTurns + 5; i < dedupTurns+10; i++ {
		s.classic = append(s.classic, receipt{r.messages[int64(i+1)*1000].classic, math.MaxInt64, int64(i)})
	}
	r.spans = []*span{s}
	r.check(report, nil, true)
	if len(report.faults) > 0 {
		t.Errorf("found %q", report.faults)
	}
	if s.begin != (dedupTurns+7)*1000-1 {
		t.Errorf("the span begins after %d", s.begin)
	}
}

// ids returns all from first to last.
func ids(first, last int64) (all []int64) {
	for id := first; id <= last; id++ {
		all = append(all, id)
	}
	return all
}

// A message may be there twice if it was sent again when the servers no longer knew it: those that
// were sent again before it count, too.
func TestCheckDuplicates(t *testing.T) {
	for _, test := range []struct {
		what           string
		between, again int // turns between the two; messages that were sent again
		faults         int
	}{
		{"soon", 10, 0, 1},
		{"just in time", dedupTurns - 3, 0, 1},
		{"too late", dedupTurns, 0, 0},
		{"too late, as many were sent again", 10, dedupTurns, 0},
	} {
		for _, received := range []bool{true, false} { // by anybody, the first time
			r, report := newRoom("test"), newReport()
			say := func(turn int, text string) {
				id := int64(turn) * 1000
				r.messages[id] = &message{id: id, text: text, resent: text[0] == 'u'}
			}
			if received {
				say(1, "u1 says 1 .")
			}
			say(2, "u1 says 2 .")
			for n := range test.between {
				say(3+n, fmt.Sprint("another ", n))
			}
			r.resent(2500, test.again)
			say(3+test.between, "u1 says 1 .")
			r.check(report, nil, true)
			if got := slices.Concat(report.faults["double"], report.faults["other"]); len(got) != test.faults {
				t.Errorf("sent again %s: %d faults, want %d: %q", test.what, len(got), test.faults, got)
			}
		}
	}
}

// A line on classic that others received much later may be the same message, or one that was sent
// again.
func TestCheckClassicLate(t *testing.T) {
	for _, test := range []struct {
		what     string
		id       int64
		received []string
		faults   int
	}{
		{"the same message", 1500, []string{"a", "x", "b", "c"}, 0},
		{"sent again", 9000, []string{"a", "x", "b", "c"}, 0},
		{"not received", 1500, []string{"a", "b", "c"}, 1},
	} {
		r, report := newRoom("test"), newReport()
		for i, text := range []string{"a", "b", "c"} {
			id := int64(i+1) * 1000
			r.messages[id] = &message{id: id, first: id, classic: hash(text), text: text + " 1"}
		}
		r.messages[test.id] = &message{id: test.id, first: 10 * natsTimeout.Microseconds(), classic: hash("x"), text: "x 1"}
		s := &span{user: "u"}
		for i, text := range test.received {
			s.classic = append(s.classic, receipt{hash(text), math.MaxInt64, int64(i+1) * 1000})
		}
		r.spans = []*span{s}
		r.check(report, nil, true)
		if got := slices.Concat(report.faults["gap"], report.faults["double"]); len(got) != test.faults {
			t.Errorf("%s: %d faults, want %d: %q", test.what, len(got), test.faults, got)
		}
	}
}
