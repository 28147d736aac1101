package main

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"chat/internal/history"
	"chat/internal/protocol"
	"chat/internal/wstest"
)

// A room is what all its users together have received, and check compares it. Message ids
// are times, so they are the room's one order over the whole run, restarts included. A
// message that any user received must have been received by all who were connected and were
// not told that messages are missing.
type room struct {
	name string

	mu       sync.Mutex
	messages map[int64]*message // by id; those that somebody received on ChatV1
	spans    []*span
	resends  []resend
	received int // deliveries on ChatV1
}

// A resend is how many messages a user sent again at once, at a time when the room's last one had
// an id.
type resend struct {
	id    int64
	count int
}

// A message is what is kept of one to recognize it: texts would take too much memory.
type message struct {
	id      int64
	first   int64  // when it was first received, in microseconds since 1970
	line    uint64 // hash of the message as ChatV1 spells it
	classic uint64 // hash of the message as Classic spells it
	text    string // its first bytes, which no other message has
	size    int    // in bytes, as ChatV1 spells it
	resent  bool   // its sender would send it again, and so in its order
}

// A span is a part of a room's order of which a user must have received everything: on
// Classic one connection; on ChatV1 all connections until the server says that
// messages are missing.
type span struct {
	user     string
	protocol protocol.Protocol
	missed   int64           // the position after which the server said that messages are missing; 0 where they must be
	known    int64           // the last message when the server said that
	begin    int64           // nothing is missing above this id
	end      int64           // nor up to this one, or the last one received if that is larger
	ids      []int64         // of the messages received, increasing; on Classic set by identify
	classic  []receipt       // what was received on Classic, where a message has no id
	late     map[uint64]bool // set by identify: lines of that which others received much later
}

// A receipt is a line received on Classic.
type receipt struct {
	line uint64 // hash
	at   int64  // the id of the message is not larger
	when int64  // in microseconds since 1970
}

var hashSeed = maphash.MakeSeed()

// hash returns a hash of a line.
func hash(line string) uint64 { return maphash.String(hashSeed, line) }

// classicLine returns a message as Classic spells it. The name "" is that of a user without.
func classicLine(name, text string) string {
	m := protocol.Message{Name: name, Text: text}
	return string(m.AppendClassic(nil))
}

func newRoom(name string) *room { return &room{name: name, messages: make(map[int64]*message)} }

// receive records a message that somebody received on ChatV1. It reports false if another
// user received it with other content.
func (r *room) receive(e wstest.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.received++
	line := hash(e.Line)
	m := r.messages[e.ID]
	if m == nil {
		name := e.Name
		if name == protocol.ShownName("") {
			name = ""
		}
		m = &message{e.ID, time.Now().UnixMicro(), line, hash(classicLine(name, e.Text)), strings.Clone(e.Text[:min(len(e.Text), 40)]), len(e.Line), e.Ref != ""}
		r.messages[e.ID] = m
	}
	return m.line == line
}

// resent records that a user sent messages again, when the last one had an id.
func (r *room) resent(id int64, count int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resends = append(r.resends, resend{id, count})
}

// between returns those messages whose ids are larger than begin and at most end.
func between(order []*message, begin, end int64) []*message {
	compare := func(m *message, id int64) int { return cmp.Compare(m.id, id) }
	first, _ := slices.BinarySearchFunc(order, begin+1, compare)
	next, _ := slices.BinarySearchFunc(order, end+1, compare)
	return order[first:max(first, next)]
}

// check compares what all users received in the room, and reports what does not fit.
// Processes are those of the server, by the times when they began. With shared, the order is
// that of a log which several servers share.
func (r *room) check(report *report, processes []int64, shared bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	order := slices.SortedFunc(maps.Values(r.messages), func(a, b *message) int { return cmp.Compare(a.id, b.id) })
	byLine := make(map[uint64][]*message)
	for _, m := range order {
		byLine[m.classic] = append(byLine[m.classic], m)
	}
	for _, s := range r.spans {
		report.count("messages", "deliveries", len(s.classic))
		if s.protocol == protocol.ChatV1 || r.identify(s, byLine, report) {
			r.checkSpan(s, order, report)
		}
	}
	r.checkDuplicates(order, processes, shared, report)
	report.count("messages", "received", len(order))
	report.count("messages", "deliveries", r.received) // on ChatV1
}

// identify finds the messages that were received on Classic, and begins the span with
// the first of them. A line is the next message that reads like it and was sent before the
// receipt, and received by others about then. One that others received much later may be the
// same, or its text was sent again, as nobody on ChatV1 received it at first. A text that is
// there twice, because it was sent again too late, does not show where a span begins.
// It returns false if there is none, and so nothing to compare.
func (r *room) identify(s *span, byLine map[uint64][]*message, report *report) bool {
	s.late = make(map[uint64]bool)
	last, unknown := s.begin, 0
	for _, c := range s.classic {
		sent := func(m *message) bool { return m.id > s.begin && m.id <= c.at }
		if len(s.ids) == 0 && len(slices.DeleteFunc(slices.Clone(byLine[c.line]), func(m *message) bool { return !sent(m) })) > 1 {
			continue
		}
		soon := func(m *message) bool { return sent(m) && m.first <= c.when+natsTimeout.Microseconds() }
		i := slices.IndexFunc(byLine[c.line], func(m *message) bool { return soon(m) && m.id > last })
		if i < 0 {
			switch {
			case slices.ContainsFunc(byLine[c.line], soon):
				report.fault("double", "%s in %q, on classic, received a message twice or too late after %d", s.user, r.name, last)
			case slices.ContainsFunc(byLine[c.line], sent):
				s.late[c.line] = true
			default:
				unknown++ // received by nobody else, which is right where nobody on ChatV1 was connected
			}
			continue
		}
		id := byLine[c.line][i].id
		if len(s.ids) == 0 {
			s.begin = id - 1
		} else if unknown > 0 && r.covers(last, id) {
			report.fault("gap", "%s in %q, on classic, received %d lines before %d that nobody else did", s.user, r.name, unknown, id)
		}
		s.ids = append(s.ids, id)
		last, unknown = id, 0
	}
	return len(s.ids) > 0
}

// covers reports whether somebody on ChatV1 must have received everything between two ids.
func (r *room) covers(begin, end int64) bool {
	return slices.ContainsFunc(r.spans, func(s *span) bool {
		return s.protocol == protocol.ChatV1 && len(s.ids) > 0 && s.begin < begin && s.ids[len(s.ids)-1] >= end
	})
}

// checkSpan reports a span of which messages were not received.
func (r *room) checkSpan(s *span, order []*message, report *report) {
	if s.missed > 0 && len(between(order, s.missed, s.begin)) == 0 && !s.evicted(order) {
		report.fault("other", "%s in %q resumed after %d and was told that messages are missing, but nobody has received any", s.user, r.name, s.missed)
	}
	end := slices.Max(append([]int64{s.begin, s.end}, s.ids...))
	next := 0
	var gap []*message
	for _, m := range between(order, s.begin, end) {
		if next < len(s.ids) && s.ids[next] == m.id {
			next++
		} else if !s.late[m.classic] {
			gap = append(gap, m)
		}
	}
	if len(gap) > 0 {
		report.fault("gap", "%s in %q, on protocol %d, with %d messages from %d to %d, has not received %d of them, but must have: first %d %q",
			s.user, r.name, s.protocol, next, s.begin, end, len(gap), gap[0].id, gap[0].text)
	}
}

// evicted reports whether the server may have said that messages are missing because it keeps
// no more. Nobody may have received those: who says many at once is alone for a moment after a
// restart.
func (s *span) evicted(order []*message) bool {
	if len(s.ids) > 0 && s.ids[len(s.ids)-1] < s.known {
		return true // cut off before it received all that is kept: nobody can tell
	}
	kept, bytes := between(order, s.begin, s.known), 0
	for _, m := range kept {
		bytes += m.size
	}
	return len(kept) >= history.MaxMessages || bytes > history.MaxBytes-protocol.MaxFrame
}

const (
	dedupTurns = 2000   // for so many turns of a shared log the servers know a message again
	dedupLines = 10_000 // but at most for so many messages
)

// A place is where a message is in a room's order.
type place struct {
	id           int64
	index, bytes int // how many messages, and bytes of them, are before it
	turns        int // of a shared log, up to its own
	again        int // messages that were sent again before it
	number       int // which one of its user's
}

// knowsAfter reports whether a server must know, at a place, a message from an earlier place.
func (p place) knowsAfter(first place, shared bool) bool {
	if !shared {
		return p.index-first.index <= history.MaxMessages && p.bytes-first.bytes <= history.MaxBytes
	}
	again := p.again - first.again // each of these is in the log, at worst in a turn of its own
	return p.turns-first.turns+again < dedupTurns && p.index-first.index+again < dedupLines
}

// checkDuplicates reports messages that are in the order twice, or before one that the same user
// sent earlier. The server cannot know a message that is resent after a restart, or after more
// messages than it keeps. Nobody may have received it the first time.
func (r *room) checkDuplicates(order []*message, processes []int64, shared bool, report *report) {
	process := func(id int64) int {
		n, _ := slices.BinarySearch(processes, id)
		return n
	}
	places, last := make(map[string]place, len(order)), make(map[int]place) // by text; by user, of the largest number
	slices.SortFunc(r.resends, func(a, b resend) int { return cmp.Compare(a.id, b.id) })
	resends := r.resends
	var p place
	for i, m := range order {
		if shared && (i == 0 || m.id/1000 != order[i-1].id/1000) { // the number of the turn
			p.turns++
		}
		for ; len(resends) > 0 && resends[0].id <= m.id; resends = resends[1:] {
			p.again += resends[0].count
		}
		user := 0
		p.id, p.index, p.number = m.id, i, 0
		fmt.Sscanf(m.text, "u%d says %d", &user, &p.number) // other texts are of nobody
		first, twice := places[m.text]
		switch {
		case twice && process(first.id) != process(m.id):
			report.count("messages", "resent over a restart", 1)
		case twice && !p.knowsAfter(first, shared):
			report.count("messages", "resent too late", 1)
		case twice:
			report.fault("double", "%q is in %q twice, as %d and %d", m.text, r.name, first.id, m.id)
		case !m.resent || p.number > last[user].number:
		case !p.knowsAfter(last[user], shared):
			report.count("messages", "resent too late", 1)
		default:
			report.fault("other", "%q is in %q as %d, after what its user said later", m.text, r.name, m.id)
		}
		if p.number > last[user].number {
			last[user] = p
		}
		places[m.text] = p
		p.bytes += m.size
	}
}
