package main

import (
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
			s.classic = append(s.classic, receipt{hash(l.text), l.at})
		}
		r.spans = []*span{other, s}
		r.check(report, nil, false)
		if got := append(report.faults["gap"], report.faults["double"]...); len(got) != test.faults {
			t.Errorf("received %s: %d faults, want %d: %q", test.what, len(got), test.faults, got)
		}
	}
}
