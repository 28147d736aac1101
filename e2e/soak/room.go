package main

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"chat/internal/history"
	"chat/internal/protocol"
	"chat/internal/wstest"
)

// This file is what was heard, and the check at the end. Ids are times, so one order of
// ids is a room's order over all of a run, restarts and all. A message that anybody has heard must
// have been heard by everybody who was there, that is, who was not told to have missed some.

// A room is what all its visitors together have heard.
type room struct {
	name string

	mu           sync.Mutex
	heard        map[int64]*line // by id
	sessions     []*session
	classicSpans []*classicSpan
	deliveries   int
}

// A line is one message. What is too long to keep for half an hour is kept as a hash.
type line struct {
	id      int64
	sum     uint64 // of how it was spelled on chat.v1, with its sender, ref and time
	classic uint64 // of how the classic wire spells it
	text    string // its beginning, which no other has
	size    int    // as spelled
}

var hashSeed = maphash.MakeSeed()

func newRoom(name string) *room {
	return &room{name: name, heard: make(map[int64]*line)}
}

// newSession returns one more session in the room.
func (r *room) newSession(owner string) *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := &session{room: r, owner: owner}
	r.sessions = append(r.sessions, e)
	return e
}

// hear notes that somebody has heard a message. It reports false if somebody else has
// heard it otherwise.
func (r *room) receive(m wstest.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliveries++
	sum := maphash.String(hashSeed, m.Line)
	l := r.heard[m.ID]
	if l == nil {
		shown := m.Text
		if m.Name != protocol.ShownName("") {
			shown = m.Name + ": " + m.Text
		}
		l = &line{
			id:      m.ID,
			sum:     sum,
			classic: maphash.String(hashSeed, shown),
			text:    strings.Clone(m.Text[:min(len(m.Text), 40)]),
			size:    len(m.Line),
		}
		r.heard[m.ID] = l
	}
	return l.sum == sum
}

// knows reports whether anybody has heard a message of this id.
func (r *room) knows(id int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard[id] != nil
}

// order returns what was heard in the room, by id.
func (r *room) order() []*line {
	order := make([]*line, 0, len(r.heard))
	for _, l := range r.heard {
		order = append(order, l)
	}
	slices.SortFunc(order, func(a, b *line) int { return cmp.Compare(a.id, b.id) })
	return order
}

// within returns those lines whose ids are above one id and at most another.
func within(order []*line, above, most int64) []*line {
	first, _ := slices.BinarySearchFunc(order, above+1, func(l *line, id int64) int { return cmp.Compare(l.id, id) })
	end, _ := slices.BinarySearchFunc(order, most+1, func(l *line, id int64) int { return cmp.Compare(l.id, id) })
	return order[first:max(first, end)]
}

// A span is a part of the room's order of which somebody should have heard everything.
type span struct {
	after int64 // the id with which it came back and was told that some are missing; 0 if that was no surprise
	begin int64 // it begins above this id
	ids   []int64
	end   int64 // set when more is known than that the last of ids was heard
}

// A classicSpan is what somebody heard on one connection of the classic wire, where lines
// have no ids: hashes of them, and when each was heard, which is after it was said.
type classicSpan struct {
	owner string
	begin int64 // when it connected
	heard []receipt
	end   int64 // when it was told that the server stops, and so has heard all; 0 if it was not
}

type receipt struct {
	classic uint64 // as of a line
	at      int64
}

// check compares what everybody heard in the room.
func (r *room) check(v *report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	order := r.order()
	for _, e := range r.sessions {
		for _, s := range e.spans {
			e.check(s, order, v)
		}
	}
	for _, s := range r.classicSpans {
		r.checkClassic(s, order, v)
	}
	r.checkDoubles(order, v)
}

// check looks for what a session has not heard of a span.
func (e *session) check(s span, order []*line, v *report) {
	end := max(s.end, s.begin)
	if n := len(s.ids); n > 0 {
		end = max(end, s.ids[n-1])
	}
	if s.after > 0 && len(within(order, s.after, s.begin)) == 0 {
		v.fault("%s in %q came back after %d and was told that some are missing, but nobody has heard any", e.owner, e.room.name, s.after)
	}
	next := 0
	for _, l := range within(order, s.begin, end) {
		if next < len(s.ids) && s.ids[next] == l.id {
			next++
			continue
		}
		v.gap("%s has not heard %d %q in %q, but what was said before and after", e.owner, l.id, l.text, e.room.name)
	}
}

// checkClassic looks for what somebody on the classic wire has not heard between the first and
// the last that it has, or heard in another order. When its first line was said more than
// once, it heard the one that leaves least to explain.
func (r *room) checkClassic(s *classicSpan, order []*line, v *report) {
	order = within(order, s.begin, 1<<62)
	places := make(map[uint64][]int, len(s.heard))
	for place, l := range order {
		places[l.classic] = append(places[l.classic], place)
	}
	// said returns the places at which what was heard may have been said: one that nobody on
	// chat.v1 has heard may have been said again much later.
	said := func(h receipt) []int {
		all := places[h.classic]
		if i := slices.IndexFunc(all, func(place int) bool { return order[place].id > h.at }); i >= 0 {
			return all[:i]
		}
		return all
	}
	first := slices.IndexFunc(s.heard, func(h receipt) bool { return len(said(h)) > 0 })
	if first < 0 {
		return
	}
	var least []string
	for i, place := range said(s.heard[first]) {
		if found := r.trace(s, s.heard[first:], order[place:], place, said); i == 0 || len(found) < len(least) {
			least = found
		}
	}
	for _, what := range least {
		v.gap("%s on the classic wire in %q: %s", s.owner, r.name, what)
	}
}

// trace follows what somebody on the classic wire has heard through the order, which begins with
// the first of that, at a place as said returns them. It returns what does not fit. What nobody
// on chat.v1 was there to hear has no place.
func (r *room) trace(s *classicSpan, heard []receipt, order []*line, start int, said func(receipt) []int) (found []string) {
	at, unplaced := 0, 0
	for _, h := range heard[1:] {
		places := said(h)
		i := slices.IndexFunc(places, func(place int) bool { return place > start+at })
		if i < 0 {
			if len(places) > 0 {
				found = append(found, fmt.Sprintf("heard something twice or too late after %d %q", order[at].id, order[at].text))
			}
			unplaced++
			continue
		}
		here := places[i] - start
		for _, l := range order[at+1 : here] {
			found = append(found, fmt.Sprintf("has not heard %d %q", l.id, l.text))
		}
		if unplaced > 0 && r.covered(order[at].id, order[here].id) {
			found = append(found, fmt.Sprintf("alone has heard %d lines before %d", unplaced, order[here].id))
		}
		at, unplaced = here, 0
	}
	if s.end > 0 {
		for _, l := range within(order, order[at].id, s.end) {
			found = append(found, fmt.Sprintf("was told that the server stops, but not %d %q", l.id, l.text))
		}
	}
	return found
}

// covered reports whether somebody on chat.v1 should have heard all between two ids.
func (r *room) covered(begin, end int64) bool {
	for _, e := range r.sessions {
		for _, s := range e.spans {
			if n := len(s.ids); n > 0 && s.begin < begin && s.ids[n-1] >= end {
				return true
			}
		}
	}
	return false
}

// checkDoubles looks for lines said twice. That is right after a restart, and when so much
// was said between that the server could not know.
func (r *room) checkDoubles(order []*line, v *report) {
	type saying struct{ place, bytes int }
	before := make(map[string]saying, len(order))
	bytes := 0 // of all up to here
	for place, l := range order {
		if first, twice := before[l.text]; twice {
			switch {
			case v.processOf(order[first.place].id) != v.processOf(l.id):
				v.overRestarts++
			case place-first.place > history.MaxMessages || bytes-first.bytes > history.MaxBytes:
				v.forgotten++
			default:
				v.double("%q was said twice in %q, as %d and %d", l.text, r.name, order[first.place].id, l.id)
			}
		}
		before[l.text] = saying{place, bytes}
		bytes += l.size
	}
}
